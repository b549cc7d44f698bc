"""Shared by configuration tools that run in the machine: their input is uploaded and removed again."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from imageflow.errors import ImageflowError, Refused
from imageflow.provisioners import Context

PLACE = "/run/imageflow/tool"  # in memory: nothing of it can remain in the image


def need(tool: str, package: str, context: Context) -> str:
    """The path of a program in the machine; raises Refused, with the entry that installs it as the hint."""
    search = "PATH=$PATH:/opt/puppetlabs/bin:/opt/saltstack/salt:/opt/chef/bin:/opt/cinc/bin:/opt/cinc-workstation/bin"
    found = context.guest.run(f"{search}; command -v {shlex.quote(tool)} || :", control=context.control).strip()
    if not found:
        raise Refused(f"{tool} is not in the machine", hint=f"add '- packages: [{package}]' before this entry")
    return found


@contextlib.contextmanager
def uploaded(context: Context) -> Iterator[None]:
    """Upload context.work to the machine as PLACE, and remove it there at the end."""
    context.guest.put_tree(context.work, PLACE, control=context.control)
    try:
        yield
    finally:
        with contextlib.suppress(ImageflowError):
            context.guest.run(f"rm -rf {PLACE}", control=context.control)
