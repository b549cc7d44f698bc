"""What QEMU itself must not do, should a guest take it over: no root's rights, no programs, few calls of the kernel."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

from imageflow.errors import ImageflowError
from imageflow.host import process

# A change of user is still to come, after which nothing can be gained back: no_new_privs is part of it.
_SANDBOX = "on,obsolete=deny,resourcecontrol=deny"


def words(emulator: str, user: int | None, *, starts_programs: bool) -> Sequence[str]:
    """QEMU's options; `user`: id of the user and the group to run as, None: ours."""
    found: list[str] = []
    sandbox = _SANDBOX
    if not starts_programs:
        sandbox += ",spawn=deny"
        if user is None:
            sandbox += ",elevateprivileges=deny"
    if _takes(emulator, "-sandbox", sandbox):
        found += ["-sandbox", sandbox]
    if user is not None:
        run_with = ("-run-with", f"user={user}:{user}")  # since QEMU 9.1, where -runas is on its way out
        found += run_with if _takes(emulator, *run_with) else ("-runas", f"{user}:{user}")
    return found


def missing(emulator: str) -> str:
    """What keeps QEMU from being confined; '' when nothing does."""
    if not _takes(emulator, "-version"):
        return ""  # there is no QEMU: nothing runs
    return "" if _takes(emulator, "-sandbox", _SANDBOX) else f"{emulator} has no sandbox: it was built without seccomp"


@functools.cache
def _takes(emulator: str, *option: str) -> bool:
    """Whether this QEMU has an option: some are built without seccomp."""
    with contextlib.suppress(ImageflowError):
        process.output([emulator, *option, "-version"])
        return True
    return False
