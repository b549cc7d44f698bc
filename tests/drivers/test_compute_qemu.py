"""What only the qemu driver can show: real guests, killed processes, what the host offers."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageflow.compute import MachineSpec, MachineState, Seed, Source
from imageflow.compute.qemu import accelerator, argv, firmware, identity, qcow2, screen
from imageflow.compute.qemu import seed as seeds
from imageflow.compute.qemu.folder import Folder
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import Corrupt, NoSpace, Refused, Unavailable
from tests.drivers.compute_site import BUILD, NAME, SPEC, QemuSite, Site, key, site, until
from tests.drivers.machine import need
from tests.guests import tiny
from tests.services import missing, require

READY = b"GUEST-READY"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """Machines with nothing to boot."""
    with site("qemu", tmp_path) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[QemuSite]:
    folder = tmp_path / ("Gäste, " + "x" * 100)
    folder.mkdir()
    with site("qemu", folder, guests=True) as made:
        assert isinstance(made, QemuSite)
        yield made


def folder_of(place: Site, name: str = NAME) -> Folder:
    return Folder(place.config.machines_dir, name)


def process_of(place: Site, name: str = NAME) -> psutil.Process:
    record = folder_of(place, name).read()
    assert record is not None and record.process is not None
    return psutil.Process(record.process.pid)


# -- guests ------------------------------------------------------------------------------------------


def test_a_guest_from_boot_to_its_layers(place: QemuSite) -> None:
    """Booted once: console, screen, keys, a checkpoint while it writes, the power button; then from the layer."""
    compute = place.compute
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        assert shell("echo -n in; hostname") == "inimageflow"
        console = compute.console(NAME)
        until(lambda: READY in compute.console(NAME))
        assert b"SeaBIOS" in console or b"Booting from Hard Disk" in console
        offset = len(compute.console(NAME))
        shell("echo later > /dev/ttyS0")
        until(lambda: b"later" in compute.console(NAME, offset))
        picture = compute.screenshot(NAME)
        assert picture is not None and size_of(picture)[0] >= 640
        with pytest.raises(Refused):
            compute.type(NAME, ["no-such-key"])
        before = compute.activity(NAME)
        shell(
            "(while [ ! -e /root/enough ]; do cat /bin/busybox > /root/load; echo >> /root/load; sync; done) > /dev/null 2>&1 &"
        )
        shell("echo kept > /root/kept; sync")
        layer = place.checkpoint("c", parent=key("b"))
        shell("echo lost > /root/lost; sync")
        assert place.checkpoint("c", parent=key("b")) == layer
        second = place.checkpoint("d", parent=key("c"))
        after = compute.activity(NAME)
        assert after.console > before.console or after.written is not None
        assert (after.written or 0) > (before.written or 0)
        shell("touch /root/enough; cat /root/kept /root/lost")
    verify = f"{BUILD}-verify"
    place.ensure(verify, disk=layer.source, seed=place.seed("i-2"))
    with place.inside(verify) as shell:
        assert shell("cat /root/kept; ls /root/lost 2>/dev/null || true") == "kept"
    assert compute.address(verify) != compute.address(NAME)
    compute.type(verify, ["shift-a"])  # the tiny guest takes any key for its power button
    until(lambda: compute.state(verify) is MachineState.STOPPED)
    started = len(compute.console(NAME))
    compute.stop(NAME, place.control(), timeout=30.0)
    assert compute.state(NAME) is MachineState.STOPPED
    assert b"Power down" in compute.console(NAME, started)
    compute.delete(verify)
    assert place.running() == 0
    for made in (layer, second):
        assert subprocess.run(["qemu-img", "check", "-q", made.source.path], check=False).returncode == 0


def test_a_killed_qemu_starts_again_where_it_was(place: QemuSite) -> None:
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo first > /root/first; sync")
        layer = place.checkpoint("c")
        shell("echo second > /root/second; sync")
    offset = len(place.compute.console(NAME))
    place.crash()
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        assert shell("cat /root/first /root/second") == "first\nsecond"
    assert b"Linux version" in place.compute.console(NAME, offset)
    assert place.checkpoint("c") == layer


def test_uefi(place: QemuSite) -> None:
    require("UEFI firmware", None if has_uefi(place) else "no OVMF")
    place.ensure(spec=dataclasses.replace(SPEC, firmware="uefi", memory=384), seed=place.seed())
    with place.inside() as shell:
        assert shell("[ -d /sys/firmware/efi ] && echo efi") == "efi"


def test_a_panic_is_an_error_and_a_reboot_may_be_an_end(place: QemuSite) -> None:
    """Of a guest without a driver for pvpanic, only the console tells; a machine that may not reboot stops there."""
    spec = dataclasses.replace(SPEC, reboots=False)
    disk = Source(str(tiny.disk("panic")))
    place.ensure(spec=spec, disk=disk)
    until(lambda: place.compute.state(NAME) is not MachineState.RUNNING)
    assert b"Kernel panic" in place.compute.console(NAME)
    assert place.compute.state(NAME) in (MachineState.STOPPED, MachineState.ERROR)


def test_nothing_to_boot_is_said_on_the_console(bare: Site) -> None:
    bare.ensure()
    until(lambda: b"No bootable device" in bare.compute.console(NAME))
    assert bare.compute.state(NAME) is MachineState.RUNNING


def has_uefi(place: Site) -> bool:
    try:
        firmware.find(place.config.qemu)
    except Refused:
        return False
    return True


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose check sums are right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 4 : at + 8 + length]
        assert zlib.crc32(data) == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


# -- killed workers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ensure", "ensure-and-checkpoint", "ensure-and-delete"])
def test_a_worker_may_be_killed_at_any_instant(bare: Site, what: str) -> None:
    """Whatever was half-made, the next one gets to the same end, with one process."""
    chance = random.Random(what)
    for _ in range(8):
        bare.worker(what).go().kill(chance.uniform(0.0, 0.5))
        bare.ensure()
        assert bare.compute.state(NAME) is MachineState.RUNNING
        assert bare.running() == 1
        layer = bare.checkpoint("c")
        assert [part.name for part in qcow2.chain(Path(layer.source.path))]
        bare.compute.stop(NAME, bare.control(), timeout=0.0)
        disk = Path(bare.compute.disk(NAME, bare.control()).path)
        assert Path(layer.source.path) in list(qcow2.chain(disk))
        bare.compute.delete(NAME)
        assert (bare.running(), bare.left()) == (0, [])
        bare.compute.layers.release(BUILD)
        bare.compute.layers.collect(0.0, 0.0, lambda build: False)


def test_a_worker_that_died_before_it_stored_the_process(bare: Site) -> None:
    first = bare.ensure()
    machine = folder_of(bare)
    record = machine.read()
    assert record is not None
    address = bare.compute.address(NAME)
    machine.write(dataclasses.replace(record, process=None, port=None))  # as it is when QEMU has just been started
    assert bare.compute.state(NAME) is MachineState.RUNNING
    assert bare.compute.address(NAME) == address
    assert bare.ensure() == first
    assert machine.read() == record
    machine.write(dataclasses.replace(record, run=record.run + 1, process=None, port=None))  # overtaken
    again = bare.ensure()
    assert again.process != first.process and bare.running() == 1


def test_a_pid_of_somebody_else_is_left_alone(bare: Site) -> None:
    bare.ensure()
    bare.crash()
    machine = folder_of(bare)
    record = machine.read()
    assert record is not None and record.process is not None
    with subprocess.Popen(["sleep", "600"]) as other:
        machine.write(dataclasses.replace(record, process=record.process._replace(pid=other.pid)))
        assert bare.compute.state(NAME) is MachineState.ERROR
        bare.compute.delete(NAME)
        assert other.poll() is None
        other.kill()


def test_another_site_is_left_alone(bare: Site, tmp_path: Path) -> None:
    with site("qemu", tmp_path / "other") as other:
        other.folder.mkdir(exist_ok=True)
        machine = other.ensure()
        bare.compute.delete(NAME)
        assert bare.compute.list() == []
        assert other.ensure() == machine


@pytest.mark.parametrize("step", ["linked", "overlay", "added", "switched"])
@pytest.mark.parametrize("qemu", ["lives", "killed"])
def test_a_checkpoint_that_was_cut_short(bare: Site, step: str, qemu: str) -> None:
    """Every instant between two of its steps: the machine goes on, and the same checkpoint comes to the same end."""
    bare.ensure()
    machine = folder_of(bare)
    place = bare.config.layers_dir / f"{key('c')}-{BUILD}"
    place.mkdir()
    frozen = place / "disk.qcow2"
    os.link(machine.disk(0), frozen)
    if step != "linked":
        overlay = ["-u", "-b", str(frozen), "-F", "qcow2", str(machine.disk(1)), "425M"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *overlay], check=True)
    if step in ("added", "switched"):
        with Qmp(machine.path, machine.monitor(1)) as monitor:
            monitor.call("blockdev-add", **argv.disk_options(1), backing=None)
            if step == "switched":
                monitor.call("blockdev-snapshot", node=argv.disk_node(0), overlay=argv.disk_node(1))
    assert bare.compute.layers.find(key("c")) is None
    bare.compute.layers.collect(0.0, 0.0, lambda build: False)
    assert frozen.exists() or step == "linked"
    if qemu == "killed":
        bare.crash()
        bare.ensure()
    layer = bare.checkpoint("c")
    assert Path(layer.source.path) == frozen
    with Qmp(machine.path, machine.monitor(1 if qemu == "lives" else 2)) as monitor:
        (disk,) = [d for d in monitor.call("query-block") if "/disk/" in d["qdev"]]
    assert disk["inserted"]["node-name"] == "disk-1" and disk["inserted"]["image"]["full-backing-filename"] == str(
        frozen
    )
    assert machine.disks() == [1]
    bare.ensure(f"{BUILD}-verify", disk=layer.source)


def test_delete_ends_a_qemu_that_does_not_answer(bare: Site) -> None:
    bare.ensure()
    address = bare.compute.address(NAME)
    socket.create_connection(address).close()
    process_of(bare).suspend()
    bare.compute.delete(NAME)
    assert (bare.running(), bare.left()) == (0, [])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_after_a_restart_of_the_host(bare: Site) -> None:
    """The record is of another boot; a disk that the host's end has damaged is not used."""
    bare.ensure()
    bare.compute.stop(NAME, bare.control(), timeout=0.0)
    machine = folder_of(bare)
    record = machine.read()
    assert record is not None
    machine.write(dataclasses.replace(record, host_boot="another"))
    assert bare.compute.state(NAME) is MachineState.ERROR
    bare.ensure()
    bare.crash()
    machine.write(dataclasses.replace(record, host_boot="another"))
    with machine.disk(0).open("r+b") as disk:
        disk.seek(40)  # the header's place of the L1 table
        disk.write(struct.pack(">Q", 0x10000))  # where the reference counts are
    with pytest.raises(Corrupt):
        bare.ensure()


# -- what a machine is started with ------------------------------------------------------------------


def test_what_is_secret_is_in_no_argument_and_no_environment(bare: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEFLOW_BUILD", BUILD)
    monkeypatch.setenv("IMAGEFLOW_SECRET_X", "hidden-in-the-environment")
    seed = Seed("#cloud-config\n# hidden-user-data\n", "i-1", credentials={"a": "hidden-a", "b": "hidden-b" * 3000})
    bare.ensure(seed=seed)
    process = process_of(bare)
    said = " ".join(process.cmdline()) + " ".join(f"{k}={v}" for k, v in process.environ().items())
    assert "hidden" not in said and "IMAGEFLOW_BUILD=" not in said
    assert process.environ()[identity.NAME] == NAME
    machine = folder_of(bare)
    texts = [file.read_bytes() for file in machine.path.iterdir() if file.is_file()]
    assert not any(b"hidden" in text or b"aGlkZGVu" in text for text in texts)
    assert machine.path.stat().st_mode & 0o777 == 0o700
    with Qmp(machine.path, machine.monitor(1)) as monitor:
        assert "seed" in {node["node-name"] for node in monitor.call("query-named-block-nodes", flat=True)}


def test_the_seed_is_a_no_cloud_volume(tmp_path: Path) -> None:
    import pycdlib

    seed = Seed("#cloud-config\n{}\n", 'i"1', hostname="höst", credentials={"x": "y\n"})
    (name,) = seeds.write(seed, tmp_path)
    assert (tmp_path / name).read_bytes() == b"io.systemd.credential.binary:x=eQo="
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    iso = pycdlib.PyCdlib()
    iso.open(str(tmp_path / seeds.VOLUME))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    import io

    import yaml

    read = {}
    for file in ("meta-data", "user-data"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, rr_path=f"/{file}")
        read[file] = out.getvalue().decode()
        joliet = io.BytesIO()
        iso.get_file_from_iso_fp(joliet, joliet_path=f"/{file}")
        assert joliet.getvalue() == out.getvalue()
    iso.close()
    assert yaml.safe_load(read["meta-data"]) == {"instance-id": 'i"1', "local-hostname": "höst"}
    assert read["user-data"] == seed.user_data
    seeds.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    with site("qemu", tmp_path, emulator="qemu-img") as broken, pytest.raises(Refused, match="did not start") as caught:
        broken.ensure()
    assert "qemu-img" in caught.value.hint
    with site("qemu", tmp_path, emulator="no-such-qemu") as none, pytest.raises(Refused, match="no-such-qemu"):
        none.ensure()


def test_one_disk_is_not_written_by_two(bare: Site) -> None:
    """QEMU's own lock is the last wall, should ours fail."""
    bare.ensure()
    disk = folder_of(bare).disk(0)
    writer = ["qemu-io", "-f", "qcow2", "-c", "write 0 4k", str(disk)]
    assert b"lock" in subprocess.run(writer, stderr=subprocess.PIPE, check=False).stderr


# -- the host ----------------------------------------------------------------------------------------


def test_the_probe_tells_a_guest_that_runs_from_one_that_does_not() -> None:
    require("QEMU", missing("qemu-system-x86_64"))
    assert accelerator.runs_guests("qemu-system-x86_64", "tcg", "max")
    assert not accelerator.runs_guests("qemu-system-x86_64", "tcg", "max", b"\xf4".ljust(510, b"\0") + b"\x55\xaa")
    assert not accelerator.runs_guests("qemu-system-x86_64", "no-such-accelerator", "max")


def test_the_probe_is_what_its_source_says(tmp_path: Path) -> None:
    require("binutils", missing("as", "ld"))
    source = Path(accelerator.__file__).with_name("probe.S")
    subprocess.run(["as", "-o", str(tmp_path / "o"), str(source)], check=True)
    link = [
        "ld",
        "-Ttext=0x7c00",
        "--oformat",
        "binary",
        "-e",
        "_start",
        "-o",
        str(tmp_path / "p"),
        str(tmp_path / "o"),
    ]
    subprocess.run(link, check=True)
    assert (tmp_path / "p").read_bytes() == accelerator.SECTOR


def test_kvm_is_asked_for_once_per_boot_of_the_host(bare: Site) -> None:
    config = dataclasses.replace(bare.config, qemu=dataclasses.replace(bare.config.qemu, accelerator="auto"))
    chosen = accelerator.choose(config)
    cache = config.cache_dir / "kvm.json"
    stored = json.loads(cache.read_text())
    assert (chosen == "kvm") == (stored["answer"] is None)
    cache.write_text(json.dumps({**stored, "answer": "it is Sunday"}))
    assert accelerator.choose(config) == "tcg"
    forced = dataclasses.replace(config, qemu=dataclasses.replace(config.qemu, accelerator="kvm"))
    with pytest.raises(Refused, match="it is Sunday") as caught:
        accelerator.choose(forced)
    assert "auto" in caught.value.hint
    cache.write_text(json.dumps({**stored, "question": "of another boot", "answer": "it is Sunday"}))
    assert accelerator.choose(config) == chosen
    cache.write_text("{")
    assert accelerator.choose(config) == chosen


def test_firmware_is_found_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Site) -> None:
    code, variables = tmp_path / "CODE.qcow2", tmp_path / "VARS.qcow2"
    code.touch(), variables.touch()
    descriptor = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "qcow2"},
            "nvram-template": {"filename": str(variables), "format": "qcow2"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}],
        "features": [],
    }
    (tmp_path / "50.json").write_text(json.dumps({**descriptor, "features": ["requires-smm"]}))
    (tmp_path / "60.json").write_text("{")
    (tmp_path / "70.json").write_text(json.dumps(descriptor))
    monkeypatch.setattr(firmware, "DESCRIPTORS", (tmp_path,))
    config = bare.config.qemu
    assert firmware.find(config) == (code, "qcow2", variables, "qcow2")
    given = dataclasses.replace(config, uefi_code=code, uefi_vars=tmp_path / "none")
    with pytest.raises(Refused, match="none"):
        firmware.find(given)
    with pytest.raises(Refused, match="only one"):
        firmware.find(dataclasses.replace(config, uefi_code=code))


@pytest.mark.parametrize("data", [b"", b"P5 1 1 255\n.", b"P6 2 2 255\n" + bytes(11), b"P6 1 1 65535\n......"])
def test_only_a_whole_picture_is_one(data: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        screen.png(data)
    assert size_of(screen.png(b"P6\n3 2\n255\n" + bytes(range(18)))) == (3, 2)


def test_a_machine_takes_more_than_its_guest() -> None:
    spec = MachineSpec(memory=1024)
    assert argv.memory_need(spec, "kvm") < argv.memory_need(spec, "tcg") == 1024 + 512 + 64


def test_a_qemu_that_stands_still_is_not_waited_for_for_ever(bare: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.ensure()
    process = process_of(bare)
    process.suspend()
    machine = folder_of(bare)
    with pytest.raises(Unavailable, match="does not answer"):
        Qmp(machine.path, machine.monitor(1), timeout=0.2)
    process.send_signal(signal.SIGCONT)
    assert bare.compute.state(NAME) is MachineState.RUNNING


@pytest.mark.serial
def test_a_full_disk_holds_a_machine_up_and_loses_nothing(tmp_path: Path) -> None:
    need("mount", root=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tests", str(tmp_path)], check=True)
    try:
        with site("qemu", tmp_path, guests=True) as place:
            assert isinstance(place, QemuSite)
            with pytest.raises(NoSpace):
                place.ensure(seed=place.seed())
            subprocess.run(["mount", "-o", "remount,size=340m", str(tmp_path)], check=True)
            machine = place.ensure(seed=place.seed())
            subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
            write = "dd if=/dev/urandom of=/root/large bs=1M count=200; sync; echo done > /root/ended"
            with place.inside() as shell:
                shell(f"echo kept > /root/kept; sync; ({write}) > /dev/null 2>&1 &")
                until(lambda: place.compute.state(NAME) is MachineState.ERROR)
                with pytest.raises(NoSpace):
                    place.ensure()
                subprocess.run(["mount", "-o", "remount,size=900m", str(tmp_path)], check=True)
                assert place.ensure() == machine
                until(lambda: shell("cat /root/kept /root/ended 2>/dev/null || true") == "kept\ndone")
            assert place.compute.state(NAME) is MachineState.RUNNING
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
