"""What the driver nova decides without asking a cloud: flavors, consoles, states, networks, and images that are not ours."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.compute import Address, MachineSpec, MachineState
from imageflow.compute.nova import flavors, layers, media, servers
from imageflow.compute.nova.adopted import Adopted
from imageflow.compute.nova.console import Console, merge
from imageflow.compute.nova.network import Network, choose
from imageflow.config.clouds import NOVA, NovaConfig, OpenStackConfig
from imageflow.errors import Refused, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.image import Image

# -- flavors -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flavor:
    """As novaclient gives it."""

    name: str
    vcpus: int
    ram: int
    disk: int
    id: str = ""


NANO = Flavor("nano", 1, 128, 1, "f1")
SMALL = Flavor("small", 1, 512, 3, "f2")
MEDIUM = Flavor("medium", 2, 1024, 10, "f3")
LARGE = Flavor("large", 2, 2048, 20, "f4")
ALL = [LARGE, SMALL, NANO, MEDIUM]


@pytest.mark.parametrize(
    ("vcpus", "memory", "disk", "chosen"),
    [
        (1, 128, 1, NANO),
        (1, 129, 1, SMALL),
        (2, 128, 1, MEDIUM),
        (1, 128, 2, SMALL),
        (1, 128, 4, MEDIUM),
        (2, 1025, 10, LARGE),
    ],
)
def test_the_smallest_flavor_that_is_large_enough(vcpus: int, memory: int, disk: int, chosen: Flavor) -> None:
    assert flavors.choose(ALL, MachineSpec(vcpus, memory), disk) is chosen


def test_a_disk_that_fits_exactly_is_worth_more_memory() -> None:
    """The image's disk is as large as the flavor's."""
    exact = Flavor("exact", 8, 8192, 4)
    assert flavors.choose([*ALL, exact], MachineSpec(1, 128), 4) is exact
    assert flavors.choose([*ALL, exact], MachineSpec(1, 128), 5) is MEDIUM


def test_flavors_that_are_equal_are_told_apart_by_name() -> None:
    first, second = Flavor("a", 1, 128, 1), Flavor("b", 1, 128, 1)
    assert flavors.choose([second, first], MachineSpec(1, 128), 1) is first


def test_flavors_without_a_disk_are_not_for_machines() -> None:
    diskless = Flavor("volume", 4, 4096, 0)
    assert flavors.choose([diskless, NANO], MachineSpec(1, 128), 0) is NANO
    with pytest.raises(Refused, match="would need volumes"):
        flavors.choose([diskless], MachineSpec(1, 128), 1)
    with pytest.raises(Refused, match="too small: 0 GiB where 1 are needed"):
        flavors.choose([diskless], MachineSpec(1, 128), 0, "volume")


def test_no_flavor_is_large_enough() -> None:
    with pytest.raises(Refused, match="3 vcpus, 4096 MiB and a disk of 7 GiB") as caught:
        flavors.choose(ALL, MachineSpec(3, 4096), 7)
    assert "openstack flavor list" in caught.value.hint
    with pytest.raises(Refused):
        flavors.choose([], MachineSpec(), 1)


@pytest.mark.parametrize("named", ["large", "f4"])
def test_a_flavor_by_its_name_or_id(named: str) -> None:
    assert flavors.choose(ALL, MachineSpec(1, 128), 1, named) is LARGE


def test_a_flavor_that_was_named_must_be_there_and_large_enough() -> None:
    with pytest.raises(Refused, match="there is no flavor 'huge'"):
        flavors.choose(ALL, MachineSpec(1, 128), 1, "huge")
    with pytest.raises(Refused, match="nano is too small: 1 vcpus where 2 are needed, 128 MiB where 256") as caught:
        flavors.choose(ALL, MachineSpec(2, 256), 1, "nano")
    assert "GiB" not in caught.value.message


SIZES = st.builds(
    Flavor, st.sampled_from("abcdef"), st.integers(1, 8), st.integers(64, 4096), st.integers(0, 20), st.just("")
)


@given(st.lists(SIZES, max_size=12), st.integers(1, 8), st.integers(32, 4096), st.integers(1, 20))
def test_what_is_chosen_is_large_enough_and_nothing_fits_its_disk_better(
    listed: list[Flavor], vcpus: int, memory: int, disk: int
) -> None:
    fitting = [f for f in listed if f.vcpus >= vcpus and f.ram >= memory and f.disk >= disk]
    if not fitting:
        with pytest.raises(Refused):
            flavors.choose(listed, MachineSpec(vcpus, memory), disk)
        return
    chosen = flavors.choose(listed, MachineSpec(vcpus, memory), disk)
    assert chosen in fitting
    assert chosen.disk == min(f.disk for f in fitting)


# -- consoles ----------------------------------------------------------------------------------------

WINDOW = 100 * 1024  # bytes that Nova shows of a console
LOGIN = b"\nDebian GNU/Linux 12 web ttyS0\n\nThe programs included are free software; \nweb login: "


@pytest.mark.parametrize(
    ("known", "seen", "new"),
    [
        (b"", b"", b""),
        (b"", b"SeaBIOS\n", b"SeaBIOS\n"),
        (b"SeaBIOS\n", b"", b""),
        (b"SeaBIOS\n", b"SeaBIOS\n", b""),
        (b"SeaBIOS\n", b"SeaBIOS\nLinux\n", b"Linux\n"),
        (b"\n", b"\nLinux\nudev\n", b"Linux\nudev\n"),  # a short beginning is no place to go on from
        (b"[", b"[    0.0] one [1]\n", b"    0.0] one [1]\n"),
        (b"one\ntwo\n", b"two\nthree\n", b"three\n"),  # one has been dropped
        (b"one\ntwo\n", b"four\nfive\n", b"four\nfive\n"),  # and so has three
        (b"one\ntwo\nthree\n", b"one\ntwo\n", b""),  # an older look that came late
        (b"one\ntwo\n", b"one\nother\n", b"one\nother\n"),  # another boot
    ],
)
def test_what_is_new_on_a_console(known: bytes, seen: bytes, new: bytes) -> None:
    assert merge(known, seen) == new


def test_a_boot_that_ends_with_the_same_words_is_seen_whole() -> None:
    first, second = b"[ 0.1] one" + LOGIN, b"[ 0.2] two" + LOGIN
    assert merge(first, second) == second


def test_a_console_over_several_boots(tmp_path: Path) -> None:
    console = Console(tmp_path / "deep" / "console.log")
    assert console.read() == b""
    said = b""
    for number in range(4):
        boot = b"".join(b"[%d.%03d] line of boot\n" % (number, line) for line in range(40)) + LOGIN
        for end in range(1, len(boot), 37):
            console.add(boot[:end])
        console.add(boot)
        console.add(b"")  # between two boots there is nothing
        said += boot
    assert console.read() == said
    assert console.read(len(said) - 7) == said[-7:]
    assert console.read(len(said) + 7) == b""


def test_lines_that_repeat_are_counted(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    boot = b"booting\n" + b"waiting for the network\n" * 1000 + b"up\n" + b"." * 5000 + b"\ndone\n"
    for end in range(1, len(boot), 331):
        console.add(boot[:end])
    console.add(boot)
    assert console.read() == boot


def test_only_the_last_part_of_a_console_is_shown(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    said = b"".join(b"[%8d] a line of a long console\n" % line for line in range(9000))
    assert len(said) > 3 * WINDOW
    for end in range(1, len(said), 50_021):
        console.add(said[max(0, end - WINDOW) : end])
    console.add(said[-WINDOW:])
    assert console.read() == said


@pytest.mark.parametrize("step", [WINDOW - 1, WINDOW])
def test_nothing_is_lost_or_doubled_where_what_is_shown_just_touches_what_is_known(tmp_path: Path, step: int) -> None:
    console = Console(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(step * 2 // 16 + 1))[: 2 * step]
    console.add(said[:step])
    console.add(said[2 * step - WINDOW : 2 * step])
    assert console.read() == said


def test_what_was_dropped_before_it_was_seen_is_a_gap_and_no_more(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(20_000))
    console.add(said[:1600])
    console.add(said[-WINDOW:])
    console.add(said[-WINDOW:] + b"end\n")
    assert console.read() == said[:1600] + said[-WINDOW:] + b"end\n"


def test_characters_of_any_length(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    text = "● Größe 装 🐧 \ufffd\n" * 50
    for end in range(0, len(text) + 1, 3):
        console.add(text[:end].encode())
    console.add(text.encode())
    assert console.read() == text.encode()


def test_a_look_that_comes_late_adds_nothing(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(9000))
    console.add(said[:WINDOW])
    console.add(said[5000 : 5000 + WINDOW])
    console.add(said[2000 : 2000 + WINDOW])
    assert console.read() == said[: 5000 + WINDOW]


TEXT = st.text(alphabet="ab\n.", max_size=300).map(str.encode)


@given(TEXT, st.data())
def test_a_console_that_only_grows_is_known_in_the_end(said: bytes, data: st.DataObject) -> None:
    known = b""
    for end in sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8))):
        known += merge(known, said[:end])
    assert known + merge(known, said) == said


# -- states of servers -------------------------------------------------------------------------------


def server(
    status: str, power: int | None = 1, task: str | None = None, stage: str = servers.DISK, **more: Any
) -> SimpleNamespace:
    """As novaclient gives it."""
    return SimpleNamespace(
        status=status,
        metadata={servers.MACHINE: "0123456789ab-main", servers.STAGE: stage},
        **{"OS-EXT-STS:power_state": power, "OS-EXT-STS:task_state": task},
        **more,
    )


RUNNING, STOPPED, ERROR = MachineState.RUNNING, MachineState.STOPPED, MachineState.ERROR


@pytest.mark.parametrize(
    ("status", "power", "task", "meant"),
    [
        ("ACTIVE", 1, None, RUNNING),
        ("ACTIVE", 4, None, STOPPED),  # its guest powered it off; Nova says SHUTOFF some seconds later
        ("ACTIVE", 4, "powering-on", RUNNING),
        ("ACTIVE", 1, "powering-off", RUNNING),
        ("ACTIVE", 1, "image_snapshot", RUNNING),
        ("ACTIVE", None, None, RUNNING),
        ("ACTIVE", 6, None, ERROR),  # crashed
        ("BUILD", 0, "spawning", RUNNING),
        ("BUILD", None, None, RUNNING),
        ("SHUTOFF", 4, None, STOPPED),
        ("SHUTOFF", 4, "image_uploading", STOPPED),
        ("SHELVED", 4, None, STOPPED),
        ("SHELVED_OFFLOADED", 4, None, STOPPED),
        ("REBOOT", 1, "rebooting", RUNNING),
        ("HARD_REBOOT", 4, "reboot_started_hard", RUNNING),
        ("PAUSED", 3, None, RUNNING),
        ("SUSPENDED", 4, None, RUNNING),
        ("RESCUE", 1, None, RUNNING),
        ("MIGRATING", 1, "migrating", RUNNING),
        ("REBUILD", 1, "rebuilding", RUNNING),
        ("RESIZE", 1, "resize_migrating", RUNNING),
        ("VERIFY_RESIZE", 1, None, RUNNING),
        ("PASSWORD", 1, "updating_password", RUNNING),
        ("UNKNOWN", 0, None, RUNNING),
        ("ERROR", 0, None, ERROR),
        ("ERROR", 1, "deleting", ERROR),
    ],
)
def test_what_a_server_is_to_imageflow(status: str, power: int | None, task: str | None, meant: MachineState) -> None:
    assert servers.state(server(status, power, task), _never) is meant


def _never(_: Any) -> bool:
    raise AssertionError("what a server that boots from its disk did in its life is of no interest")


def test_no_server_is_absent() -> None:
    assert servers.state(None, _never) is MachineState.ABSENT


@pytest.mark.parametrize(
    ("status", "power", "ejected", "meant"),
    [
        ("BUILD", 0, False, RUNNING),
        ("ACTIVE", 1, False, RUNNING),  # the ISO is about to be booted
        ("ACTIVE", 4, False, RUNNING),  # nothing is on its disk: it is no installed machine that was powered off
        ("SHUTOFF", 4, False, RUNNING),
        ("RESCUE", 1, False, RUNNING),  # the installer works
        ("RESCUE", 4, False, STOPPED),  # it is done
        ("ACTIVE", 1, True, STOPPED),  # it boots its disk, and nobody has written that down yet
        ("PAUSED", 3, True, STOPPED),
        ("SHUTOFF", 4, True, STOPPED),
        ("ERROR", 0, False, ERROR),
        ("RESCUE", 6, False, ERROR),
    ],
)
def test_what_a_server_is_while_an_installer_runs(status: str, power: int, ejected: bool, meant: MachineState) -> None:
    assert servers.state(server(status, power, stage=servers.INSTALLING), lambda _: ejected) is meant


def test_a_server_that_never_was_told_its_stage_boots_from_its_disk() -> None:
    bare = SimpleNamespace(status="SHUTOFF", metadata={})
    assert servers.state(bare, _never) is STOPPED


def test_the_fault_of_a_server_is_one_line() -> None:
    assert servers.fault(server("ERROR")) == "no reason was given"
    assert servers.fault(server("ERROR", fault={"code": 500})) == "no reason was given"
    assert (
        servers.fault(server("ERROR", fault={"message": "No valid host\n was  found."})) == "No valid host was found."
    )
    assert len(servers.fault(server("ERROR", fault={"message": "x" * 1000}))) == 300


def test_a_server_that_ran_has_a_disk_worth_something() -> None:
    assert not servers.launched(server("ERROR"))
    assert not servers.launched(server("ERROR", **{"OS-SRV-USG:launched_at": None}))
    assert servers.launched(server("ERROR", **{"OS-SRV-USG:launched_at": "2026-11-23T03:00:00.000000"}))


# -- networks ----------------------------------------------------------------------------------------


BUILD = {"id": "n1", "name": "build", "router:external": False}
OTHER = {"id": "n2", "name": "other", "router:external": False}
OUTSIDE = {"id": "n3", "name": "outside", "router:external": True}


def test_the_only_network_is_chosen() -> None:
    assert choose([BUILD], None) == "n1"
    assert choose([OUTSIDE, BUILD], None) == "n1"  # floating addresses come from there, machines do not live in it
    assert choose([OUTSIDE], None) == "n3"  # a provider's network, and nothing else
    assert choose([{"id": "n9", "name": ""}], None) == "n9"


@pytest.mark.parametrize(
    ("wanted", "chosen"), [("other", "n2"), ("n2", "n2"), ("outside", "n3"), ("n3", "n3")], ids=str
)
def test_a_network_by_its_name_or_id(wanted: str, chosen: str) -> None:
    assert choose([BUILD, OTHER, OUTSIDE], wanted) == chosen


@pytest.mark.parametrize(
    ("networks", "wanted", "said"),
    [
        ([], None, "there is no network at all"),
        ([], "third", "there is no network 'third'"),
        ([BUILD, OTHER, OUTSIDE], None, "there are several networks: build, other"),
        ([BUILD, OTHER], "third", "there is no network 'third'; there are: build, other"),
        ([BUILD, {**OTHER, "name": "build"}], "build", "there are 2 networks 'build'"),
        ([OUTSIDE, {**OUTSIDE, "id": "n4", "name": ""}], None, "there are several networks: n4, outside"),
    ],
)
def test_a_network_that_can_not_be_chosen(networks: list[Mapping[str, Any]], wanted: str | None, said: str) -> None:
    with pytest.raises(Refused) as caught:
        choose(networks, wanted)
    assert caught.value.message == said
    assert "[nova] network" in caught.value.hint


def nova(**options: Any) -> Network:
    """A network of which nothing is asked."""
    given = {option.dest: option.default for option in NOVA}
    return Network(Cloud(OpenStackConfig("site", None, None, 60.0, 0.0)), NovaConfig(**{**given, **options}))


def address(kind: str, value: str, version: int = 4) -> dict[str, Any]:
    return {"OS-EXT-IPS:type": kind, "addr": value, "version": version}


FIXED, FIXED6, FLOATING = (
    address("fixed", "10.0.0.5"),
    address("fixed", "2001:db8::5", 6),
    address("floating", "192.0.2.7"),
)


@dataclass
class Addressed:
    """A server in a network."""

    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def addresses(self) -> dict[str, list[dict[str, Any]]]:
        return {"build": self.found}


def test_where_a_machine_answers() -> None:
    inside, outside = nova(), nova(floating_network="outside")
    assert inside.address(Addressed([FIXED6, FIXED]), "m") == Address("10.0.0.5", 22)
    assert inside.address(Addressed([FIXED6]), "m") == Address("2001:db8::5", 22)
    assert inside.address(Addressed([FLOATING, FIXED]), "m") == Address("10.0.0.5", 22)  # somebody else gave it that
    assert outside.address(Addressed([FIXED, FIXED6, FLOATING]), "m") == Address("192.0.2.7", 22)
    with pytest.raises(Unavailable, match="m has no address yet"):
        inside.address(Addressed(), "m")


# -- images that are not ours ------------------------------------------------------------------------

KEY, OTHER_KEY = "ab" * 32, "cd" * 32


def test_an_adopted_image_is_a_layer(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "layers")
    assert adopted.find(KEY) is None
    assert list(adopted.all()) == []
    put = adopted.put(KEY, "image-1", "raw", title="the base", build_id="one")
    found = adopted.find(KEY)
    assert found is not None
    assert (found.key, found.source, found.title) == (KEY, put.source, "the base")
    assert (found.source.path, found.source.format, found.source.layer) == ("image-1", "raw", KEY)
    assert (found.size, found.parent, found.build_id, found.holders) == (0, None, "one", ("one",))
    assert Adopted(tmp_path / "layers").find(KEY) == found  # whoever looks


def test_who_holds_an_adopted_image(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    first = adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    again = adopted.put(KEY, "image-2", "qcow2", title="the base", build_id="two")
    assert again.created == first.created
    assert again.source.path == "image-2"
    adopted.hold(KEY, "three")
    adopted.hold(KEY, "three")
    adopted.hold(OTHER_KEY, "three")  # one that is not there
    assert _holders(adopted) == {KEY: ("one", "three", "two")}
    adopted.release("one")
    adopted.release("nobody")
    assert _holders(adopted) == {KEY: ("three", "two")}


def _holders(adopted: Adopted) -> dict[str, tuple[str, ...]]:
    return {layer.key: layer.holders for layer in adopted.all()}


def test_an_adopted_image_that_is_forgotten_in_this_moment(tmp_path: Path) -> None:
    class Hasty(Adopted):
        def _read(self, key: str) -> dict[str, Any] | None:
            record = super()._read(key)
            self._file(key).unlink(missing_ok=True)
            return record

    Adopted(tmp_path).put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    found = Hasty(tmp_path).find(KEY)
    assert found is not None and found.source.path == "image-1"
    assert Hasty(tmp_path).find(KEY) is None


def test_to_let_go_of_an_image_is_not_to_use_it(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    before = adopted.all()[0].used
    time.sleep(0.02)
    adopted.release("one")
    assert adopted.all()[0].used == pytest.approx(before, abs=1e-6)
    adopted.hold(KEY, "two")
    assert adopted.all()[0].used > before + 0.01


def test_forgetting_adopted_images(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    adopted.put(KEY, "image-1", "qcow2", title="held", build_id="alive")
    adopted.put(OTHER_KEY, "image-2", "qcow2", title="not held", build_id="dead")
    assert adopted.collect(3600.0, lambda build: False) == []  # they were used just now
    gone = adopted.collect(0.0, lambda build: build == "alive")
    assert [layer.title for layer in gone] == ["not held"]
    assert list(_holders(adopted)) == [KEY]
    assert [layer.title for layer in adopted.collect(0.0, lambda build: False)] == ["held"]
    assert list(tmp_path.glob("*")) == []


def test_a_file_that_nobody_can_read_is_no_layer(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    (tmp_path / f"{KEY}.adopted").write_text('{"image": "half')
    assert adopted.find(KEY) is None
    assert list(adopted.all()) == []
    adopted.hold(KEY, "one")
    adopted.release("one")
    adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    assert _holders(adopted) == {KEY: ("one",)}


WORKER = """
import sys
from pathlib import Path
from imageflow.compute.nova.adopted import Adopted
folder, name = Path(sys.argv[1]), sys.argv[2]
adopted = Adopted(folder)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    adopted.put("ab" * 32, "image-1", "qcow2", title="the base", build_id=f"{name}-{number}")
    adopted.hold("ab" * 32, f"{name}-held-{number}")
    assert adopted.find("ab" * 32) is not None
    adopted.release(f"{name}-{number}")
"""


def test_two_processes_adopt_one_image(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=60)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    expected = sorted(f"{name}-held-{number}" for name in ("one", "two") for number in range(40))
    assert _holders(Adopted(tmp_path)) == {KEY: tuple(expected)}
    assert [file.name for file in tmp_path.glob("*")] == [f"{KEY}.adopted"]


@pytest.mark.parametrize(
    ("name", "said", "mine"),
    [
        ("b1-main-disk", {"imageflow:machine": "b1-main", "imageflow:purpose": "disk"}, True),
        ("before I touch it", {"imageflow:machine": "b1-main", "imageflow:purpose": "blank"}, False),
        ("b1-main-", {}, False),
    ],
)
def test_a_snapshot_that_a_person_takes_of_a_machine_is_not_ours(name: str, said: dict[str, str], mine: bool) -> None:
    assert media.ours(Image("i", name, "active", {**said, "image_type": "snapshot"})) is mine


@pytest.mark.parametrize(
    ("name", "said", "mine"),
    [
        ("imageflow-layer-abababababab", {"imageflow:layer": "ab" * 32}, True),
        ("mine", {"imageflow:layer": "ab" * 32}, False),
        ("imageflow-layer-", {}, False),
    ],
)
def test_a_snapshot_that_a_person_takes_is_no_layer_of_ours(name: str, said: dict[str, str], mine: bool) -> None:
    assert layers.ours(Image("i", name, "active", {**said, "image_type": "snapshot"})) is mine
