"""The token of POST /v1/events: the configured one, or a file in the state folder that is made at first use."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import ConfigError

_LONGEST = 4096  # bytes of the file


def token(config: Config) -> str:
    """The token; raises ConfigError when its file can't be made or read, or others may read it."""
    if config.events.token:
        return config.events.token
    path = config.events_token_file
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    try:
        _make(path)
    except OSError as error:
        raise ConfigError(
            f"the token of POST /v1/events can't be written to {path}: {error.strerror}",
            hint="make its folder writable, or set [events] token",
        ) from error
    return _read(path)


def place(config: Config) -> str:
    """Where the token is, for messages."""
    return "[events] token" if config.events.token else str(config.events_token_file)


def _make(path: Path) -> None:
    """Write a new token, unless another process is faster; it appears as a whole, and only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(half, path)
    finally:
        half.unlink(missing_ok=True)


def _read(path: Path) -> str:
    hint = f"chmod 600 {path}; or remove it, and a new one is made"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"the token of POST /v1/events in {path} can't be read: {error.strerror}",
            hint="run this as the user that 'imageflow serve' runs as",
        ) from error
    with open(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{path} is not a file of this user", hint=hint)
        if about.st_mode & 0o077:
            raise ConfigError(f"{path} holds a token, and other users may read or write it", hint=hint)
        found = file.read(_LONGEST).decode("ascii", "replace").strip()
    if not found or not found.isprintable() or " " in found:
        raise ConfigError(f"there is no token in {path}", hint="remove it, and a new one is made")
    return found
