"""What every compute driver promises: one suite for all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from imageflow.compute import Layer, MachineSpec, MachineState, Source
from imageflow.errors import BadInput, NotFound, Refused, Unavailable
from tests.drivers.compute_site import BUILD, NAME, SPEC, Site, key

OTHER = "ba9876543210"


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    file = tmp_path / "a, b.iso"
    file.write_bytes(bytes(1 << 20))
    return file


# -- life --------------------------------------------------------------------------------------------


def test_a_machine_that_never_was(place: Site) -> None:
    compute = place.compute
    assert compute.state(NAME) is MachineState.ABSENT
    assert (compute.list(), compute.console(NAME), compute.screenshot(NAME)) == ([], b"", None)
    compute.stop(NAME, place.control())
    compute.delete(NAME)
    for look in (compute.address, compute.activity):
        with pytest.raises(Unavailable):
            look(NAME)
    with pytest.raises(Unavailable):
        compute.disk(NAME, place.control())
    with pytest.raises(Refused):
        place.checkpoint("c")


def test_ensure_twice_is_the_same_machine(place: Site) -> None:
    first = place.ensure()
    assert first.state is MachineState.RUNNING and first.name == NAME
    address = place.compute.address(NAME)
    again = place.ensure(spec=dataclasses.replace(SPEC, memory=300))
    assert again == first
    assert place.compute.address(NAME) == address
    assert place.compute.list() == place.compute.list(BUILD) == [NAME]
    assert place.compute.list(OTHER) == place.compute.list(BUILD[:4]) == []


def test_a_machine_outlives_its_worker_and_is_adopted(place: Site) -> None:
    process = place.worker("ensure").go().result()
    assert place.compute.state(NAME) is MachineState.RUNNING
    assert place.ensure().process == process
    assert place.open().address(NAME) == place.compute.address(NAME)


def test_a_machine_that_broke_starts_again_from_its_disk(place: Site) -> None:
    first = place.ensure()
    place.crash()
    assert place.compute.state(NAME) is MachineState.ERROR
    with pytest.raises(Unavailable):
        place.compute.address(NAME)
    with pytest.raises(Unavailable):
        place.compute.stop(NAME, place.control())
    with pytest.raises(Unavailable):
        place.checkpoint("c")
    assert place.compute.list() == [NAME]
    again = place.ensure()
    assert again.process != first.process
    assert place.compute.state(NAME) is MachineState.RUNNING


def test_stop_then_disk_then_start(place: Site) -> None:
    first = place.ensure()
    with pytest.raises(Unavailable):
        place.compute.disk(NAME, place.control())
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert place.compute.state(NAME) is MachineState.STOPPED
    assert place.open().state(NAME) is MachineState.STOPPED
    place.compute.stop(NAME, place.control())
    source = place.compute.disk(NAME, place.control())
    info = subprocess.run(["qemu-img", "check", "-q", source.path], check=False)
    assert info.returncode == 0 and source.format == "qcow2"
    assert place.compute.screenshot(NAME) is None
    assert place.running() == 0
    assert place.ensure().process != first.process


def test_delete_leaves_nothing_and_layers_stay(place: Site) -> None:
    place.ensure()
    layer = place.checkpoint("c")
    place.compute.delete(NAME)
    assert place.compute.state(NAME) is MachineState.ABSENT
    assert (place.compute.list(), place.running(), place.left()) == ([], 0, [])
    place.compute.delete(NAME)
    assert place.compute.layers.find(layer.key) is not None


@pytest.mark.parametrize("damage", ["nothing", "{", '{"spec": 1}'])
def test_a_damaged_record_is_in_nobodys_way(place: Site, damage: str) -> None:
    place.ensure()
    record = place.config.machines_dir / NAME / "machine.json"
    record.unlink() if damage == "nothing" else record.write_text(damage)
    assert place.compute.list() == [NAME]
    assert place.compute.state(NAME) in (MachineState.RUNNING, MachineState.ERROR)
    place.ensure()
    assert place.compute.state(NAME) is MachineState.RUNNING
    record.write_text(damage)
    place.compute.delete(NAME)
    assert (place.running(), place.left()) == (0, [])


def test_two_machines_do_not_meet(place: Site) -> None:
    names = [NAME, f"{BUILD}-verify", f"{OTHER}-main"]
    machines = [place.ensure(name) for name in names]
    assert len({machine.process for machine in machines}) == 3
    assert place.compute.list() == sorted(names)
    assert place.compute.list(OTHER) == [names[2]]
    place.compute.delete(NAME)
    assert [place.compute.state(name) for name in names] == [
        MachineState.ABSENT,
        MachineState.RUNNING,
        MachineState.RUNNING,
    ]


def test_two_workers_start_one_machine_once(place: Site) -> None:
    workers = [place.worker("ensure") for _ in range(3)]
    results = {worker.result() for worker in [worker.go() for worker in workers]}
    assert len(results) == 1
    assert results == {place.ensure().process}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 200, "a\n"])
def test_a_name_is_a_name(place: Site, name: str) -> None:
    with pytest.raises(BadInput):
        place.compute.state(name)
    with pytest.raises(BadInput):
        place.compute.delete(name)


# -- installing --------------------------------------------------------------------------------------


def test_from_a_cd_then_from_the_disk(place: Site, iso: Path) -> None:
    spec = MachineSpec(memory=128, disk=1, reboots=False)
    first = place.ensure(spec=spec, cdrom=iso)
    assert place.ensure(spec=spec, cdrom=iso) == first
    place.compute.stop(NAME, place.control(), timeout=0.0)
    installed = place.ensure(spec=spec, cdrom=None)
    assert installed.process != first.process and installed.state is MachineState.RUNNING
    assert place.ensure(spec=spec, cdrom=None) == installed
    place.crash()
    assert place.ensure(spec=spec, cdrom=None).process != installed.process


def test_an_empty_disk_has_its_size(place: Site, iso: Path) -> None:
    place.ensure(spec=MachineSpec(memory=64, disk=3), cdrom=iso)
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert virtual_size(place) == 3 << 30


@pytest.mark.parametrize(("disk", "size"), [(None, None), (1, 1 << 30)])
def test_a_disk_is_as_large_as_what_it_starts_from(place: Site, disk: int | None, size: int | None) -> None:
    place.ensure(spec=MachineSpec(memory=64, disk=disk))
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert virtual_size(place) == size or (size is None and virtual_size(place) == 425 << 20)


def virtual_size(place: Site) -> int:
    path = place.compute.disk(NAME, place.control()).path
    info = subprocess.run(["qemu-img", "info", "--output=json", path], stdout=subprocess.PIPE, check=True)
    return int(json.loads(info.stdout)["virtual-size"])


def test_a_cd_that_is_not_there(place: Site, tmp_path: Path) -> None:
    with pytest.raises((Refused, NotFound)):
        place.ensure(spec=MachineSpec(memory=64, disk=1), cdrom=tmp_path / "no.iso")


@pytest.mark.parametrize(
    "spec",
    [
        MachineSpec(memory=10**9),
        MachineSpec(vcpus=10**6),
        MachineSpec(firmware="coreboot"),
    ],
    ids=["memory", "vcpus", "firmware"],
)
def test_what_can_never_run_is_refused(place: Site, spec: MachineSpec) -> None:
    with pytest.raises(Refused) as caught:
        place.compute.check(spec)
    assert caught.value.hint
    with pytest.raises(Refused):
        place.ensure(spec=spec)
    assert place.compute.state(NAME) is MachineState.ABSENT


# -- layers ------------------------------------------------------------------------------------------


def test_a_checkpoint_again_is_the_same_layer(place: Site) -> None:
    place.ensure()
    first = place.checkpoint("c", parent=key("b"))
    assert place.checkpoint("c", parent=key("b")) == first
    assert (first.key, first.parent, first.build_id, first.title) == (key("c"), key("b"), BUILD, "c")
    assert first.source.layer == key("c") and first.size > 0
    second = place.checkpoint("d", parent=key("c"))
    listed = [layer.key for layer in place.compute.layers.list()]
    assert listed == [second.key, first.key, key("b")]
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert place.checkpoint("d", parent=key("c")) == second
    third = place.checkpoint("e", parent=key("d"))
    assert place.compute.layers.find(key("e")) == third
    place.ensure(f"{BUILD}-verify", disk=third.source)
    place.ensure()
    assert sorted(p.name for p in (place.config.machines_dir / NAME).glob("disk-*")) == ["disk-3.qcow2"]


def test_two_builds_may_make_one_layer(place: Site) -> None:
    place.ensure()
    place.ensure(f"{OTHER}-main")
    first, second = place.checkpoint("c"), place.checkpoint("c", f"{OTHER}-main")
    assert first.source.path != second.source.path
    assert place.compute.layers.find(key("c")) == second
    assert len(place.compute.layers.list()) == 3


def test_a_layer_without_what_it_stands_on_is_not_found(place: Site) -> None:
    place.ensure()
    place.checkpoint("c")
    top = place.checkpoint("d", parent=key("c"))
    place.compute.delete(NAME)
    (Path(place.compute.layers.find(key("c")).source.path).with_name("layer.json")).unlink()  # type: ignore[union-attr]
    assert place.compute.layers.find(top.key) is None
    assert place.compute.layers.hold(top.key, OTHER) is None
    assert [layer.key for layer in place.compute.layers.list()] == [key("b")]


def test_a_base_that_somebody_wrote_to_is_not_found(place: Site, tmp_path: Path) -> None:
    file = tmp_path / "base.raw"
    file.write_bytes(os.urandom(1 << 20))
    add(place, file, "raw")
    assert place.compute.layers.find(key("r")) is not None
    with file.open("r+b") as out:
        out.write(b"changed")
    found = place.compute.layers.find(key("r"))
    assert found is None or Path(found.source.path).read_bytes()[:7] != b"changed"
    again = add(place, file, "raw")
    assert Path(again.source.path).read_bytes()[:7] == b"changed" or found is not None


def test_collection_spares_what_is_in_use(place: Site) -> None:
    layers = place.compute.layers
    place.ensure()
    place.checkpoint("c")
    place.checkpoint("d", parent=key("c"))
    place.ensure(f"{OTHER}-main", disk=layers.find(key("c")).source)  # type: ignore[union-attr]
    assert layers.collect(0.0, 0.0, lambda build: build == BUILD) == []
    place.compute.delete(NAME)
    assert layers.collect(0.0, 0.0, lambda build: build == BUILD) == []
    layers.release(BUILD)
    layers.release(BUILD)
    assert [layer.key for layer in layers.collect(0.0, 0.0, lambda build: True)] == [key("d")]
    place.compute.delete(f"{OTHER}-main")
    layers.hold(key("c"), OTHER)
    assert layers.collect(0.0, 0.0, lambda build: True) == []
    removed = layers.collect(0.0, 0.0, lambda build: False)
    assert [layer.key for layer in removed] == [key("c"), key("b")]
    assert layers.list() == []
    assert [p for p in place.config.layers_dir.iterdir() if "-" in p.name] == []


def test_collection_by_age_and_size(place: Site, tmp_path: Path) -> None:
    layers = place.compute.layers
    made: list[Layer] = []
    for letter in "xyz":
        file = tmp_path / letter
        file.write_bytes(os.urandom(1 << 20))
        made.append(layers.add_base(key(letter), file, "raw", title="", build_id=BUILD, control=place.control()))
        time.sleep(0.02)
    layers.release(BUILD)
    assert layers.collect(3600.0, 1 << 30, lambda build: True) == []
    layers.hold(key("x"), OTHER)  # used just now
    layers.release(OTHER)
    removed = layers.collect(3600.0, made[0].size, lambda build: True)
    assert [layer.key for layer in removed] == [key("y"), key("z")]
    assert [layer.key for layer in layers.collect(-1.0, 1 << 30, lambda build: True)] == [key("x")]


def test_half_made_layers_of_the_dead_go(place: Site) -> None:
    for build in (BUILD, OTHER):
        half = place.config.layers_dir / f"{key('h')}-{build}"
        half.mkdir(parents=True)
        (half / "new").write_bytes(b"x")
    assert place.compute.layers.find(key("h")) is None
    assert place.compute.layers.collect(1e9, 1e18, lambda build: build == OTHER) == []
    assert [p.name for p in place.config.layers_dir.glob(f"{key('h')}-*")] == [f"{key('h')}-{OTHER}"]
    place.compute.layers.release(OTHER)
    assert list(place.config.layers_dir.glob(f"{key('h')}-*")) == []


# -- bases -------------------------------------------------------------------------------------------


def add(place: Site, file: Path, format: str) -> Layer:
    return place.compute.layers.add_base(
        key("r"), file, format, title="a base", build_id=BUILD, control=place.control()
    )


def image(*words: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True)


def test_a_base_is_taken_in_once(place: Site, tmp_path: Path) -> None:
    file = tmp_path / "Grundlage, groß.raw"
    with file.open("wb") as out:
        out.write(b"boot" * 1024)
        out.truncate(1 << 30)
    first = add(place, file, "raw")
    assert first.parent is None and first.source.format == "raw" and first.size < 1 << 20
    assert add(place, tmp_path / "another", "raw") == first
    file.unlink()
    assert Path(first.source.path).stat().st_size == 1 << 30
    place.ensure(disk=first.source, spec=MachineSpec(memory=64))


def test_hostile_bases_are_refused(place: Site, tmp_path: Path) -> None:
    """A disk may name files of the host that its guest must not read."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    backed, outside, locked, cut, text, empty = (tmp_path / name for name in ("a", "b", "c", "d", "e", "f"))
    image("-b", str(secret), "-F", "raw", str(backed))
    image("-o", f"data_file={tmp_path / 'data'},data_file_raw=on", str(outside), "1M")
    image(str(locked), "1M")
    with locked.open("r+b") as out:
        out.seek(32)  # the header's method of encryption
        out.write(b"\0\0\0\1")
    cut.write_bytes(backed.read_bytes()[:80])
    text.write_bytes(b"# not a disk\n" * 100)
    empty.touch()
    for file, format in ((backed, "qcow2"), (outside, "qcow2"), (locked, "qcow2"), (cut, "qcow2"), (text, "qcow2")):
        with pytest.raises(Refused):
            add(place, file, format)
    for file, format in (
        (empty, "raw"),
        (backed, "raw"),
        (text, "vmdk"),
        (tmp_path, "raw"),
        (Path("/dev/null"), "raw"),
    ):
        with pytest.raises(Refused):
            add(place, file, format)
    with pytest.raises(NotFound):
        add(place, tmp_path / "nothing", "raw")
    assert place.compute.layers.list() == []
    with pytest.raises(Refused):
        place.ensure(disk=Source(str(backed)))
