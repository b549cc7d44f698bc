"""A site whose builds run on real machines."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil

from imageflow.compute import MachineState
from imageflow.model import Build, BuildState, StepState
from tests.small.site import Site


class MachineSite(Site):
    """Every machine that its builds made is gone afterwards."""

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()
        for name in self.service.compute.list():
            self.service.compute.delete(name)
        super().__exit__(*exception)

    def log(self, build: Build) -> str:
        """A build's log."""
        path = self.service.log_path(build.id)
        return path.read_text() if path.exists() else ""

    def worker_log(self) -> str:
        file = self.folder / "workers.log"
        return file.read_text()[-3000:] if file.exists() else ""

    def processes(self, build: Build) -> list[str]:
        """Every run of the build's machine, in order: 'PID:START'."""
        found = re.findall(rf"machine {build.id}-main runs as (\S+?),? ", self.log(build) + " ")
        return list(dict.fromkeys(found))

    def pid(self, build: Build, role: str = "main") -> int | None:
        """The QEMU of a machine, if it runs."""
        for process in psutil.process_iter(["pid"]):
            with contextlib.suppress(OSError, psutil.Error):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if (
                    f"IMAGEFLOW_MACHINE={build.id}-{role}".encode() in environment
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    return process.pid
        return None

    def kill_machine(self, build: Build, role: str = "main") -> None:
        """kill -9 of QEMU, if it runs."""
        if (pid := self.pid(build, role)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.await_that(lambda: self.pid(build, role) is None, 10)

    def running(self, build: Build, step: str) -> bool:
        """Whether this step runs now, or has ended."""
        return any(
            record.name == step and record.state in (StepState.RUNNING, StepState.SUCCEEDED, StepState.FAILED)
            for record in self.service.steps(build.id)
        )

    def paused(self, build: Build) -> bool:
        return self.service.build(build.id).state is BuildState.PAUSED

    def on_machine(self, build: Build, command: str, role: str = "main") -> str:
        """Run a command in the build's machine, as an operator would."""
        folder = self.config.builds_dir / build.id / ("ssh" if role == "main" else f"ssh-{role}")
        host, port = self.service.compute.address(f"{build.id}-{role}")
        argv = [
            "ssh",
            "-i",
            str(folder / "client_key"),
            "-p",
            str(port),
            "-o",
            f"UserKnownHostsFile={folder / 'known_hosts'}",
        ]
        argv += ["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        done = subprocess.run([*argv, f"root@{host}", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def nothing_left(self) -> None:
        """Check that no machine, process, folder or open resource is left; layers may stay."""
        end = time.monotonic() + 5
        while self.service.compute.list() and time.monotonic() < end:
            time.sleep(0.05)
        assert list(self.service.compute.list()) == []
        left = [entry.name for entry in self.config.machines_dir.glob("*") if not entry.name.startswith(".queue")]
        assert left == []
        for build in self.service.builds(limit=1000):
            assert self.service.compute.state(f"{build.id}-main") is MachineState.ABSENT
            assert self.pid(build) is None
            assert self.pid(build, "verify") is None
        super().nothing_left()
