"""The search of a finished image for the build's secrets, before anything of it can be published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from imageflow.content.forms import SHORTEST
from imageflow.content.secret_search import Hit, SecretSearch
from imageflow.errors import NotSealed
from imageflow.host import image_places, process, removal
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.model import Build
from imageflow.recipe import plain_secrets, secret_values

_IN_STEP = re.compile(r"#[^#/]+/(configure|verify)/[^#]+$")
_SHOWN = 5  # places that a message names
_ENOUGH = 20  # hits after which the search ends
_HINT = (
    "keep it out of the image: hand it to the command that needs it, in its environment, and remove what that writes; "
    "then abort this build and create it again. A secret that is an ordinary word is in any image: choose another"
)
_IN_MACHINE = (
    "keep it out of the image: hand it to the command that needs it, in its environment; "
    "a file can be removed in the machine, then resume"
)


def values_of(build: Build, secret: Callable[[str], str], log: Log) -> list[str]:
    """The secrets of the build that its image is searched for; logs those that can't be told from other text."""
    values = {name: secret(name) for name in secret_values.named_in(build.recipe)}
    public = set(_texts(build.recipe))
    for name, value in [*values.items()]:
        if name.startswith("recipe:") and (_IN_STEP.search(name) or plain_secrets.harmless(value)):
            del values[name]  # plain text in a step, which may be meant to write it; or a path
            continue
        shown = name if not name.startswith("recipe:") else name.rpartition("/")[2]
        if value in public:  # such as a password that is the account's name
            log(f"the image is not searched for the secret {shown}: the recipe says the same word in public")
            del values[name]
        elif len(value.encode()) < SHORTEST:
            log(f"the image is not searched for the secret {shown}: it is shorter than {SHORTEST} characters")
    return list(values.values())


def refuse(places: Iterable[str], clean: Callable[[str], str]) -> None:
    """Raise NotSealed if there is a place where a secret is; `clean` masks one that is in a file's name."""
    found = list(dict.fromkeys(map(clean, places)))
    if found:
        more = f" and {len(found) - _SHOWN} more places" if len(found) > _SHOWN else ""
        raise NotSealed(f"a secret of the build is in the image: {', '.join(found[:_SHOWN])}{more}", hint=_HINT)


def refuse_in_machine(files: Sequence[str], clean: Callable[[str], str]) -> None:
    """Raise NotSealed if there are such files in a machine that still runs."""
    if files:
        raise NotSealed(f"a secret of the recipe is in {clean(', '.join(files[:_SHOWN]))}", hint=_IN_MACHINE)


def in_disk(
    search: SecretSearch, raw: Path, control: Control, progress: Callable[[float], None] = lambda _: None
) -> Iterator[str]:
    """Where a raw disk holds a secret."""
    for hit in _first(search, raw, control, progress):
        yield _told(image_places.in_disk(raw, hit.at[0], control), hit.at[1:], hit.form)


def in_archive(
    search: SecretSearch, archive: Path, control: Control, progress: Callable[[float], None] = lambda _: None
) -> Iterator[str]:
    """Where a tar archive, compressed or not, holds a secret."""
    for hit in _first(search, archive, control, progress):
        depth = 1 if _is_packed(archive) else 0
        at = hit.at[depth] if len(hit.at) > depth else hit.at[0]
        yield _told(image_places.in_archive(archive, at), hit.at[depth + 1 :], hit.form)


def in_squashfs(search: SecretSearch, image: Path, folder: Path, control: Control, log: Log) -> Iterator[str]:
    """Where a squashfs holds a secret; it is unpacked into `folder`, which is removed afterwards."""
    if not search:
        return
    removal.remove_tree(folder)
    try:
        process.run(
            ["unsquashfs", "-no-progress", "-no-xattrs", "-dest", str(folder), str(image)],
            control=control,
            name="unsquashfs",
        )
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                for hit in _first(search, file, control):
                    yield _told(f"/{file.relative_to(folder)}", hit.at[1:], hit.form)
    finally:
        removal.remove_tree(folder)


def in_file(search: SecretSearch, file: Path, control: Control) -> Iterator[str]:
    """Where another file of the image, such as its kernel, holds a secret."""
    for hit in _first(search, file, control):
        yield _told(f"{file.name} at byte {hit.at[0]}", hit.at[1:], hit.form)


def _first(
    search: SecretSearch, file: Path, control: Control, progress: Callable[[float], None] = lambda _: None
) -> Iterator[Hit]:
    for number, hit in enumerate(search.in_file(file, control.check, progress)):
        if number >= _ENOUGH:
            return
        yield hit


def _told(place: str, inside: tuple[int, ...], form: str) -> str:
    return f"{place} ({'compressed, ' if inside else ''}{form})"


def _is_packed(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
