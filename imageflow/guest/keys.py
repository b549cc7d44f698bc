"""One-time SSH keys of a build: the client key its machines accept, and their host key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageflow.errors import Corrupt
from imageflow.guest import Access

COMMENT = "imageflow-build"  # of the client key: tells its origin, should it be found
HOST_COMMENT = "imageflow-host"


@dataclass(frozen=True, slots=True)
class Keys:
    """Two ed25519 key pairs in a build's folder; the private keys never leave it."""

    private: Path  # the client's, mode 0600, as OpenSSH reads it
    public: str  # its line for authorized_keys
    host_private: Path
    host_public: str  # 'ssh-ed25519 BASE64 COMMENT'

    @property
    def known_hosts(self) -> Path:
        """The file with the accepted host keys."""
        return self.private.with_name("known_hosts")


def make(folder: Path) -> Keys:
    """Find or make the keys in this folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    client, host = folder / "client_key", folder / "host_key"
    return Keys(client, _pair(client, COMMENT), host, _pair(host, HOST_COMMENT))


def public(folder: Path) -> str | None:
    """The client key of this folder, 'ssh-ed25519 BASE64'; None when there is none."""
    try:
        return _public(_read(folder / "client_key"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def copy(keys: Keys, to: Path) -> None:
    """Copy the keys to another folder without keys; it may be on another file system."""
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in (keys.private, keys.host_private):
        if not (to / file.name).exists():
            _write(to / file.name, file.read_bytes())


def access(keys: Keys, host: str, port: int, user: str = "root", *, host_known: bool) -> Access:
    """How to reach a machine that was given these keys.

    `host_known`: the machine got the host key too, with its seed, and must prove to have it. Otherwise the
    key it presents at the first connection is the only one accepted from then on.
    """
    if host_known:
        expect(keys.known_hosts, keys.host_public)
    return Access(host, port, user, keys.private, keys.known_hosts)


def expect(known_hosts: Path, public: str) -> None:
    """Accept only this host key from now on, whatever the machine's address is."""
    kind, blob = public.split()[:2]
    _write(known_hosts, f"* {kind} {blob}\n".encode())


def also_expect(known_hosts: Path, public: list[str]) -> None:
    """Accept these host keys as well, as told over a connection to the machine."""
    lines = {f"* {kind} {blob}" for kind, blob in expected(known_hosts)}
    lines |= {f"* {words[0]} {words[1]}" for line in public if len(words := line.split()) >= 2}
    if lines:
        _write(known_hosts, "".join(f"{line}\n" for line in sorted(lines)).encode())


def expected(known_hosts: Path) -> list[tuple[str, str]]:
    """The accepted host keys, as (type, base64); [] when none is known yet."""
    try:
        lines = known_hosts.read_text().splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if any(len(word) < 3 for word in words):
        raise Corrupt(f"{known_hosts} is not a file of known hosts", hint="abort the build and create it again")
    return [(word[1], word[2]) for word in words]


def _pair(path: Path, comment: str) -> str:
    """Find or make a key pair; -> the public line, derived from the private key, which is written first."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = _read(path)
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        form = serialization.PrivateFormat.OpenSSH
        data = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        _write(path, data)
    return f"{_public(key)} {comment}"


def _read(path: Path) -> Any:
    """The private key in a file; raises FileNotFoundError, Corrupt."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        return load_ssh_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise Corrupt(f"{path} is not an SSH key: {error}", hint="abort the build and create it again") from None


def _public(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line.decode()


def _write(path: Path, data: bytes) -> None:
    """Write atomically, readable by the owner only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    aside.replace(path)
