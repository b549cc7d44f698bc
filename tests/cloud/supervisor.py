"""Process 1 of a cloud's namespaces: when it ends, everything that the cloud started ends.

Run by unshare(1) with private mounts and process ids. Hides this machine's own /run and libvirt, then starts and
stops programs as a socket tells it: each request is a line with one JSON object, and so is each answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Supervisor:
    """Programs by name; each has a session of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: dict[str, int] = {}
        self.exits: dict[str, int] = {}  # exit codes of those that ended; negative for a signal, as in subprocess

    def start(self, name: str, argv: list[str], env: dict[str, str]) -> Json:
        """Start a program, unless it runs."""
        self.reap()
        if name not in self.pids:
            self.exits.pop(name, None)
            with open(self.folder / "logs" / f"{name}.log", "ab") as log:
                process = subprocess.Popen(
                    argv, cwd="/", env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            process.returncode = 0  # `reap` waits for it
            self.pids[name] = process.pid
        return {}

    def stop(self, name: str, how: int, patience: float) -> Json:
        """Signal a program and its children; kill what is left of them after `patience` seconds."""
        self.reap()
        pid = self.pids.get(name)
        if pid is None:
            return {}
        end = time.monotonic() + patience
        _signal(pid, signal.Signals(how))
        while _lives(pid):
            if time.monotonic() >= end:
                _signal(pid, signal.SIGKILL)
            self.reap()
            time.sleep(0.02)
        self.reap()
        return {}

    def programs(self) -> Json:
        """What runs, and the exit codes of what has ended."""
        self.reap()
        return {"running": sorted(self.pids), "ended": self.exits}

    def reap(self) -> None:
        """Collect all ended processes, orphans too: they are all ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name in [n for n, p in self.pids.items() if p == pid]:
                del self.pids[name]
                self.exits[name] = os.waitstatus_to_exitcode(status)

    def answer(self, request: Json) -> Json:
        """Carry out a request."""
        do = request.pop("do")
        known: dict[str, Callable[..., Json]] = {"start": self.start, "stop": self.stop, "programs": self.programs}
        return known[do](**request)

    def serve(self) -> None:
        """Answer requests for ever."""
        listener = socket.socket(socket.AF_UNIX)
        path = self.folder / "control"
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(16)
        listener.settimeout(1)
        while True:
            self.reap()
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            with peer:
                peer.settimeout(5)
                try:
                    peer.sendall(self.converse(peer.makefile("rb").readline()))
                except OSError:
                    pass  # the client has gone

    def converse(self, line: bytes) -> bytes:
        """Answer one request; a client that only checked whether we are here sends none."""
        if not line:
            return b""
        try:
            answer = self.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        return json.dumps(answer).encode() + b"\n"


def _signal(group: int, how: signal.Signals) -> None:
    try:
        os.killpg(group, how)
    except ProcessLookupError:
        pass


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def hide(folder: Path) -> None:
    """Private places for the services' fixed paths: no socket, lock or file of the machine's own services is visible."""
    state = folder / "state"
    for name in ("libvirt", "lock", "netns"):
        (state / "run" / name).mkdir(parents=True, exist_ok=True)
    instead = {
        "/run": state / "run",
        "/etc/libvirt": folder / "etc/libvirt",
        "/var/lib/libvirt": state / "libvirt/lib",
        "/var/log/libvirt": state / "libvirt/log",
        "/var/cache/libvirt": state / "libvirt/cache",
    }
    for path, own in instead.items():
        own.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(own), path)


def _mount(*argv: str) -> None:
    subprocess.run(["mount", *argv], check=True)


def main(folder: Path) -> None:
    """Serve the cloud in this folder."""
    if os.getpid() != 1:
        sys.exit("this is for unshare --pid --fork --mount: see tests/cloud/README.md")
    hide(folder)
    Supervisor(folder).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
