"""Talks to a running QEMU: the QEMU Machine Protocol, one JSON document per line.

QEMU serves one client at a time and makes the next one wait: connections are short.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imageflow.errors import Refused, Unavailable

TIMEOUT = 20.0  # seconds for an answer
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s")


@contextlib.contextmanager
def _short(folder: Path, name: str) -> Iterator[str]:
    """A path of at most 107 bytes for a socket, however long its folder's path is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def listening(folder: Path, name: str) -> Iterator[socket.socket]:
    """A listening socket for a QEMU not started yet: clients can connect at once and wait for its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        (folder / name).unlink(missing_ok=True)
        with _short(folder, name) as path:
            server.bind(path)
        (folder / name).chmod(0o600)
        server.listen(16)
        yield server


class Qmp:
    """One connection; a context manager. Every method raises Unavailable when QEMU does not answer."""

    def __init__(self, folder: Path, name: str, timeout: float = TIMEOUT) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._rest = b""
        try:
            with _short(folder, name) as path:
                self._socket.connect(path)
            self._read()  # the greeting
            self.call("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"QEMU of {folder.name} does not answer: {error.strerror or error}") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, command: str, **arguments: Any) -> Any:
        """Run a command; -> its answer. Raises Refused when QEMU says no."""
        words = {"execute": command, "arguments": {name.replace("_", "-"): value for name, value in arguments.items()}}
        try:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            while not {"return", "error"} & (answer := self._read()).keys():
                pass  # an event
        except OSError as error:
            raise Unavailable(f"QEMU does not answer to {command}: {error.strerror or error}") from error
        if "error" in answer:
            raise Refused(f"QEMU refused {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def give(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, which other commands call by this name."""
        words = {"execute": "getfd", "arguments": {"fdname": name}}
        try:
            socket.send_fds(self._socket, [json.dumps(words).encode() + b"\n"], [descriptor])
            while not {"return", "error"} & (answer := self._read()).keys():
                pass  # an event
        except OSError as error:
            raise Unavailable(f"QEMU does not take a file: {error.strerror or error}") from error
        if "error" in answer:
            raise Refused(f"QEMU refused a file: {answer['error'].get('desc')}")

    def human(self, line: str) -> str:
        """Run a line of the human monitor, for the few things available only there."""
        return str(self.call("human-monitor-command", command_line=line))

    def forwarded_port(self) -> int:
        """The port on 127.0.0.1 that leads to the machine's SSH server: QEMU let the kernel choose it."""
        found = _FORWARD.search(self.human("info usernet"))
        if found is None:
            raise Unavailable("QEMU does not say which port leads to the machine")
        return int(found[1])

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("it has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
