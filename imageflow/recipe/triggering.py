"""The `on:` of an image as a whole: what its entries may not say about this image, and their canonical form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imageflow.recipe import conditions
from imageflow.recipe.definition import Fault
from imageflow.recipe.inputs import is_id, is_url
from imageflow.recipe.problems import path_name, short

_SOURCES = ("base", "iso")


def faults(image: Mapping[str, Any], folder: Path) -> Iterator[Fault]:
    """What the models can't see, on raw data; wrong types are left to them. `folder` is the recipe's."""
    entries = image.get("on")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, Mapping):
            continue
        if isinstance(entry.get("where"), Mapping):
            yield from conditions.faults(entry["where"], ("on", index, "where"))
        if isinstance(entry.get("image"), str) and entry["image"] == image.get("name"):
            yield Fault(("on", index, "image"), "an image can't ask for itself", "remove the entry")
        if isinstance(entry.get("watch"), str) and (wrong := _unwatchable(entry["watch"], image, folder)):
            yield Fault(("on", index, "watch"), *wrong)


def _unwatchable(watch: str, image: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """Why it can't be watched, and the way out."""
    if watch in _SOURCES:
        source = image.get(watch)
        if not isinstance(source, Mapping):
            return f"the image has no {watch!r}", f"a file of this name is written ./{watch}"
        if "image" in source:
            return "its base is an image", f"write {{image: {short(source['image'])}}} instead"
        if isinstance(source.get("glance"), str) and is_id(source["glance"]):
            return f"its {watch} can't change: the recipe names it by its id", "write its name in Glance in its place"
        if "sha256" in source:
            return f"its {watch} can't change: its sha256 is in the recipe", "write 'checksums:' in its place"
        return None
    if is_url(watch):
        return None
    try:
        os.stat(folder / watch)
    except FileNotFoundError:
        return f"there is no file or folder {short(watch)}", f"paths are relative to {path_name(folder)}"
    except (OSError, ValueError):
        return f"{short(watch)} can't be watched", "check the path and its permissions"
    return None


def canonical(entries: Sequence[Any], one_name: Callable[[str], str]) -> list[dict[str, Any]]:
    """The entries with every default filled in; `one_name` gives a local path the one name that it has everywhere."""
    return [_whole(entry.model_dump(), one_name) for entry in entries]


def _whole(entry: dict[str, Any], one_name: Callable[[str], str]) -> dict[str, Any]:
    watch = entry.get("watch")
    if watch is not None and watch not in _SOURCES and not is_url(watch):
        name = one_name(watch)
        entry["watch"] = f"./{name}" if name in _SOURCES else name
    return entry
