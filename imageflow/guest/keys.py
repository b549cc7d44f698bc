"""One-time SSH keys of a build: whom its machines let in, and who they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageflow.errors import Corrupt
from imageflow.guest import Access

COMMENT = "imageflow-build"  # of the client key: what it is, for whoever finds it
HOST_COMMENT = "imageflow-host"


@dataclass(frozen=True, slots=True)
class Keys:
    """Two ed25519 key pairs in a folder of a build; nothing outside of it ever holds the private ones."""

    private: Path  # the client's, mode 0600, as OpenSSH reads it
    public: str  # its line for authorized_keys
    host_private: Path
    host_public: str  # 'ssh-ed25519 BASE64 COMMENT'

    @property
    def known_hosts(self) -> Path:
        """The file that says which host keys are accepted."""
        return self.private.with_name("known_hosts")


def make(folder: Path) -> Keys:
    """Make the keys in this folder, or find those that were made there before."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    client, host = folder / "client_key", folder / "host_key"
    return Keys(client, _pair(client, COMMENT), host, _pair(host, HOST_COMMENT))


def public(folder: Path) -> str | None:
    """Whom a machine with the keys of this folder lets in, 'ssh-ed25519 BASE64'; None where there are none."""
    try:
        return _public(_read(folder / "client_key"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def copy(keys: Keys, to: Path) -> None:
    """The same keys in another folder, where there are none yet; it may be on another file system."""
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in (keys.private, keys.host_private):
        if not (to / file.name).exists():
            _write(to / file.name, file.read_bytes())


def access(keys: Keys, host: str, port: int, user: str = "root", *, host_known: bool) -> Access:
    """How to reach a machine that was told of these keys.

    `host_known`: the machine got the host key too, with its seed, and must prove to have it. Else the
    key that it shows at the first connection is the only one that is accepted from then on.
    """
    if host_known:
        expect(keys.known_hosts, keys.host_public)
    return Access(host, port, user, keys.private, keys.known_hosts)


def expect(known_hosts: Path, public: str) -> None:
    """From now on this is the only host key that is accepted, whatever the machine's address is."""
    kind, blob = public.split()[:2]
    _write(known_hosts, f"* {kind} {blob}\n".encode())


def expected(known_hosts: Path) -> list[tuple[str, str]]:
    """The host keys that are accepted, as (type, base64); [] when none is known yet."""
    try:
        lines = known_hosts.read_text().splitlines()
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if any(len(word) < 3 for word in words):
        raise Corrupt(f"{known_hosts} is not a file of known hosts", hint="abort the build and create it again")
    return [(word[1], word[2]) for word in words]


def _pair(path: Path, comment: str) -> str:
    """-> the public line; the private key is written first, and the public one follows from it."""
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
    """Whole or not at all, for its owner only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    aside.replace(path)
