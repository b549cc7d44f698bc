"""diskimage-builder's command line for a definition, made by its own code."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imageflow.model import Json

# Decided or done by imageflow; everything else is passed to diskimage-builder unchanged.
_OURS = (
    "imagename",
    "types",
    "environment",
    "checksum",
    "clear",
    "image-cache",
    "logfile",
    "no-tmpfs",
    "min-tmpfs",
    "qemu-img-options",
    "uncompressed",
    "docker-target",
)
_FROM_DISK = {"qcow2", "raw", "vhd"}  # converted from the raw disk by imageflow
_FROM_TAR = {"tar", "tgz"}


def types_for(outputs: Sequence[str]) -> list[str]:
    """The types that diskimage-builder has to make for these outputs."""
    types = []
    if "squashfs" in outputs:
        types.append("squashfs")  # it makes one only if this is the first
    if _FROM_TAR.intersection(outputs):
        types.append("tar")
    if "aci" in outputs:
        types.append("aci")
    if _FROM_DISK.intersection(outputs) or not types:
        types.append("raw")
    return types


def argv_for(
    definition: Json, *, name: str, folder: Path, outputs: Sequence[str], elements: Sequence[str]
) -> list[str]:
    """The command that leaves the image's files as `folder`/`name`.TYPE."""
    from diskimage_builder import diskimage_builder

    entry: dict[str, Any] = {key: value for key, value in copy.deepcopy(dict(definition)).items() if key not in _OURS}
    entry |= {
        "imagename": str(folder / name),
        "types": types_for(outputs),
        "no-tmpfs": True,
        "elements": list(elements),
    }
    [command] = diskimage_builder.build_commands([entry])
    return list(map(str, command.command()))


def base_name(image: str) -> str:
    """Base name of the files while diskimage-builder works; it cuts off what looks like a type."""
    return image.replace(".", "-") if image.endswith((".raw", ".tar", ".aci", ".squashfs")) else image
