"""The run of a machine whose worker was killed just when it started QEMU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imageflow.compute import MachineSpec
from imageflow.compute.qemu import identity
from imageflow.compute.qemu.folder import Folder
from imageflow.compute.qemu.qmp import listening
from imageflow.compute.qemu.runs import Runs
from imageflow.errors import Unavailable

# hangs up when somebody wants to talk to it, and lives on for so many seconds
QEMU = """
import socket, sys, time
socket.socket(fileno=int(sys.argv[1])).accept()[0].close()
time.sleep(float(sys.argv[2]))
"""


def adopt(site: Path, lives_for: float) -> None:
    """Look for the process of a machine, which ends so many seconds after it has hung up."""
    machine = Folder(site, "0123456789ab-main")
    machine.make()
    record = machine.write(machine.fresh("0123456789ab", MachineSpec(vcpus=1, memory=64, disk=None)))
    runs = Runs(site)
    with listening(machine.path, machine.monitor(record.run)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", QEMU, str(server.fileno()), str(lives_for)],
            env=identity.environment(site, machine.name, record.run),
            pass_fds=[server.fileno()],
        )
    try:
        while machine.name not in runs.names():
            assert process.poll() is None
        found = runs.adopted(machine)
        assert found is not None and found.process is None
    finally:
        process.kill()
        process.wait()


def test_a_qemu_that_dies_in_its_start_does_not_run(tmp_path: Path) -> None:
    adopt(tmp_path, lives_for=0.2)


def test_one_that_lives_and_does_not_answer_is_not_started_again(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        adopt(tmp_path, lives_for=60)
