"""What runs in a machine, reached over SSH.

`connect.py` makes the connection (paramiko), `keys.py` the one-time keys, `seed.py` what a machine is
told at its first boot, `seal.py` makes an image of a machine that was built with, `hygiene.py` looks
whether that worked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imageflow.control import Control


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a machine over SSH: everything that an SSH client of any kind needs."""

    host: str
    port: int
    user: str
    key: Path  # private key, mode 0600, in the build's own folder
    known_hosts: Path  # the only host keys that are accepted; written at the first connection where they aren't known


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found in the guest."""

    packages: str | None  # apt-get, dnf, zypper, apk; None: nothing known
    systemd: bool  # runs as its first process
    system: str  # PRETTY_NAME of os-release, or uname
    python: str | None  # absolute path of a python3


class Guest(Protocol):
    """A shell in the machine, as root (through `sudo -n` where the account is another one)."""

    @property
    def facts(self) -> Facts:
        """Found at the first use."""

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
        `environment` never appear in the guest's list of processes. What an earlier connection left
        running of this build is ended first; `name` is what errors call it. Raises CommandFailed with the last lines when the exit code
        is not 0, Unavailable when the connection is lost, and what `control` says; then the command is ended.
        """

    def output(self, command: str, *, control: Control, name: str = "a command in the machine") -> bytes:
        """As `run`, of a command whose output is large: the last 256 MiB of it, as they are."""

    def put(
        self, data: bytes | Path, to: str, *, mode: str = "0644", owner: str = "root:root", control: Control
    ) -> None:
        """Write a file: whole or not at all; folders above it are made."""

    def put_tree(self, folder: Path, to: str, *, control: Control) -> None:
        """Copy a folder with all that is in it to a new folder `to`, which is emptied first."""
