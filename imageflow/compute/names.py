"""Valid machine names: they also name a folder, a server and a socket."""

from __future__ import annotations

import re

from imageflow.errors import BadInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def checked(name: str) -> str:
    """The name, if valid; raises BadInput."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} can't be the name of a machine")
    return name
