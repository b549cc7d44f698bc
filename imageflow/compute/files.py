"""Imports a large file: shared with the original if possible, otherwise copied with its holes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from imageflow.errors import CommandFailed, NoSpace, NotFound, Refused
from imageflow.host import process
from imageflow.host.control import Control

_FICLONE = 0x40049409  # ioctl: share the blocks of another file, copy-on-write
_CAN_NOT_SHARE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.EACCES, errno.EMLINK}


def copy_in(file: Path, to: Path, control: Control) -> None:
    """Make the new file `to`: a clone, else a hard link, else a copy. Raises NotFound, NoSpace, Refused."""
    to.unlink(missing_ok=True)
    try:
        file = file.resolve(strict=True)
        if not file.is_file():
            raise Refused(f"{file} is not a file")
        if _cloned(file, to) or _linked(file, to):
            return
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"there is no file {file}") from error
        raise trouble(error, to) from error
    need = file.stat().st_blocks * 512
    check_space(to.parent, need, f"a copy of {file.name}")
    try:
        process.run(["cp", "--sparse=always", "--", str(file), str(to)], control=control, env=_env())
    except CommandFailed as error:
        to.unlink(missing_ok=True)
        if "No space left" in error.hint:
            raise NoSpace(f"there is not enough space in {to.parent} for a copy of {file}") from error
        raise


def check_space(folder: Path, need: int, what: str) -> None:
    """Raise NoSpace when fewer than `need` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise NoSpace(
            f"{folder} has {free >> 20} MiB of free space, {what} needs {need >> 20} MiB",
            hint="remove images or layers that are not needed, or give state_dir more space",
        )


def trouble(error: OSError, place: Path) -> Refused:
    """The error to raise for an OSError in one of our folders."""
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Refused
    return kind(f"{place}: {error.strerror}")


def _env() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _cloned(file: Path, to: Path) -> bool:
    with file.open("rb") as source, to.open("xb") as target:
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError as error:
            to.unlink()
            if error.errno not in _CAN_NOT_SHARE:
                raise
            return False
    return True


def _linked(file: Path, to: Path) -> bool:
    try:
        os.link(file, to)
    except OSError as error:
        if error.errno not in _CAN_NOT_SHARE:
            raise
        return False
    return True
