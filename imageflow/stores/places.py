"""Shared by stores: checks of file names, atomic export of files, and explanations of system errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from imageflow.errors import Conflict, ImageflowError, NoSpace, NotFound, Refused, Unavailable
from imageflow.model import Artifact
from imageflow.stores import ImageRef, contents

DIGEST = re.compile(r"[0-9a-f]{64}")
DESCRIPTION = "image.json"  # the directory store's own file in a version
_AWAY = {  # errors of network file systems; a lost mount comes back
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.ENOTCONN,
    errno.EREMOTEIO,
}


def check_names(artifacts: Sequence[Artifact]) -> None:
    """Raise Refused unless every file can stay in the version's folder under its own name."""
    names = [artifact.name for artifact in artifacts]
    if not names or not all(DIGEST.fullmatch(artifact.digest) for artifact in artifacts):
        raise Refused("an image needs at least one file, and a SHA-256 for each")
    for name in names:
        if not name or "/" in name or "\0" in name or name.startswith(".") or name == DESCRIPTION:
            raise Refused(f"a file of an image can't be named {name!r}")
        if names.count(name) > 1:
            raise Refused(f"an image can't have two files named {name!r}")


def artifact_of(ref: ImageRef, name: str | None) -> Artifact:
    """The artifact of this name, the primary one by default; raises NotFound."""
    for artifact in ref.artifacts:
        if name in (None, artifact.name):
            return artifact
    raise NotFound(
        f"image {ref.digest[:12]} has no file {name!r}",
        hint="it has " + ", ".join(artifact.name for artifact in ref.artifacts),
    )


@contextlib.contextmanager
def appearing(to: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """-> (temporary path to write, final path): `to`, or `name` in the folder `to`; it appears atomically.

    Raises Conflict (it exists), NotFound (the folder does not), NoSpace, Refused.
    """
    to = to / name if to.is_dir() else to
    if os.path.lexists(to):
        raise Conflict(f"{to} exists already", hint="give another path, or remove it first")
    if not to.parent.is_dir():
        raise NotFound(f"there is no folder {to.parent}", hint="make it first")
    half = to.with_name(f".{to.name[:200]}.{secrets.token_hex(4)}")
    with explained("exporting to", to):
        try:
            yield half, to
            half.rename(to)
        finally:
            half.unlink(missing_ok=True)
        contents.sync_folder(to.parent)


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Translate OSErrors in the block: with the path and the way out."""
    try:
        yield
    except ImageflowError:
        raise
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while {doing} {path}",
                hint="free some space, or delete unused images: imageflow image list, image delete",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Refused(
                f"{doing} {path}: no permission ({where})",
                hint="check the folder's owner, and whether it is mounted read-only",
            ) from error
        if error.errno == errno.ENOENT:
            raise NotFound(f"{doing} {path}: {where} is not there") from error
        if error.errno in _AWAY:
            raise Unavailable(f"{doing} {path}: {error.strerror} ({where})") from error
        raise Refused(f"{doing} {path}: {error.strerror or error} ({where})") from error
