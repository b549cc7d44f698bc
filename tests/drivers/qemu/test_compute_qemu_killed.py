"""Killed workers and QEMUs that hang or are gone: the next worker gets to the same end, with one process."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from imageflow.compute import MachineState, qcow2
from imageflow.compute.qemu import account, argv
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import Corrupt, Unavailable
from tests.drivers.compute_site import BUILD, NAME, Site, key, site
from tests.drivers.qemu.qemu_machines import folder_of, process_of

pytestmark = pytest.mark.machine(seconds=5)


@pytest.mark.sliced(of=3)
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


@pytest.mark.sliced(of=4)
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
        account.own(machine.disk(1), bare.config.machines_dir, NAME)
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


def test_a_qemu_that_stands_still_is_not_waited_for_for_ever(bare: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.ensure()
    process = process_of(bare)
    process.suspend()
    machine = folder_of(bare)
    with pytest.raises(Unavailable, match="does not answer"):
        Qmp(machine.path, machine.monitor(1), timeout=0.2)
    process.send_signal(signal.SIGCONT)
    assert bare.compute.state(NAME) is MachineState.RUNNING
