"""The operating system in a machine, reached over SSH.

`connect.py` makes the connection (paramiko), `keys.py` the one-time keys, `seed.py` the data for a machine's
first boot; `seal.py` turns the build machine into an image, `hygiene.py` checks whether that worked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imageflow.host.control import Control


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a machine over SSH: everything that any SSH client needs."""

    host: str
    port: int
    user: str
    key: Path  # private key, mode 0600, in the build's own folder
    known_hosts: Path  # the only accepted host keys; written at the first connection if not known before


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found in the guest."""

    packages: str | None  # apt-get, dnf, zypper, apk; None: no known one
    system: str  # PRETTY_NAME of os-release, or uname
    python: str | None  # absolute path of a python3


class Guest(Protocol):
    """A shell in the machine, as root (through `sudo -n` for any other account)."""

    @property
    def facts(self) -> Facts:
        """Facts about the guest, collected at the first call."""

    def run(
        self,
        command: str,
        *,
        control: Control,
        log: Callable[[str], None] | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        name: str = "a command in the machine",
    ) -> str:
        """Run a script with `sh` to its end; -> the last MiB of its standard output (no newline at its end).

        `log` gets every line of both streams as it comes, cleaned as process.run does. Values of
        `environment` never appear in the guest's process list. A command that an earlier connection of this
        build left running is ended first; errors call the command `name`. Raises CommandFailed with the last
        lines when the exit code is not 0, Unavailable when the connection is lost, and what `control` raises;
        then the command is ended.
        """

    def output(self, command: str, *, control: Control, name: str = "a command in the machine") -> bytes:
        """As `run`, for a command with large output: its last 256 MiB, unchanged."""

    def put(
        self, data: bytes | Path, to: str, *, mode: str = "0644", owner: str = "root:root", control: Control
    ) -> None:
        """Write a file atomically; parent folders are made."""

    def put_tree(self, folder: Path, to: str, *, control: Control) -> None:
        """Copy a folder with its content to a new folder `to`; an existing one is replaced."""
