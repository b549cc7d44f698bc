"""A cloud's supervisor, from outside: start it, send it requests, end it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).with_name("supervisor.py")


class Supervision:
    """The supervisor of the cloud in this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launch(self, lock: int, detached: bool) -> None:
        """Start it; it keeps the lock. Unless detached it dies with this thread, however that ends."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        leash = [] if detached else ["setpriv", "--pdeathsig", "KILL", "--"]
        log = self.folder / "logs/supervisor.log"
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [*leash, *unshare, sys.executable, "-I", str(_PROGRAM), str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C goes to the tests, which stop it in order
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert process.poll() is None, f"the supervisor ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, "the supervisor does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.programs()
        except OSError:
            return False
        return True

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one request, get one answer; OSError when the supervisor does not answer."""
        with self._connect() as peer, peer.makefile("rwb") as stream:
            peer.settimeout(arguments.get("patience", 0) + 30)
            stream.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
        if not line:
            raise ConnectionResetError(f"the supervisor of {self.folder} has gone")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"supervisor: {do} {arguments.get('name', '')}: {answer['error']}")
        return answer

    def programs(self) -> dict[str, Any]:
        """{"running": [name…], "ended": {name: exit code}}"""
        return self.ask("programs")

    @property
    def pid(self) -> int:
        """Its process id on this machine; OSError when it is not running."""
        with self._connect() as peer:
            found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", found)[0])

    def _connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(str(self.folder / "control"))
        except OSError:
            peer.close()
            raise
        return peer

    def processes(self) -> list[int]:
        """The ids on this machine of all processes of the cloud."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == space:
                    found.append(int(entry.name))
        return sorted(found)

    def end(self) -> None:
        """Kill it, and everything with it; returns when all is gone."""
        try:
            pid = self.pid
            handle = os.pidfd_open(pid)
        except OSError:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ended, _, _ = select.select([handle], [], [], 60)
        os.close(handle)
        assert ended, f"process {pid} does not end"


def hold(folder: Path, patience: float = 0) -> int | None:
    """Take the folder's lock; -> its descriptor, None when a cloud has it."""
    end = time.monotonic() + patience
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(lock)
                return None
            time.sleep(0.05)
        else:
            return lock


def lives(folder: Path) -> bool:
    """Whether a cloud runs (or starts) in this folder."""
    if not folder.is_dir():
        return False
    lock = hold(folder)
    if lock is not None:
        os.close(lock)
    return lock is None
