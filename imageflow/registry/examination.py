"""Checks the recipes of a commit, in a process of its own: what anybody may push does no harm to the worker that looks at it.

Everything that a build would read before it begins is read here first: recipes, templates, answer files, media.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from imageflow.config import Config
from imageflow.errors import BadInput, CommandFailed, Exceeded, ImageflowError
from imageflow.fetch import git
from imageflow.host import bounded
from imageflow.host.bounded import Bounds
from imageflow.host.control import Control
from imageflow.inputs import fingerprint
from imageflow.model import Json, Origin, Registered
from imageflow.registry.recipes import Prepared, canonical_images, check_name, prepared

BOUNDS = Bounds()
_SUFFIXES = (".yaml", ".yml")
_HARM = (Exceeded, CommandFailed)  # the child was ended, or ended by itself without a result
_MANY = 1000  # recipes in a folder
ALONE = 600.0  # seconds for all of a commit's recipes, one after the other
_PATIENCE = 3  # recipes of a commit that may take too much; the rest is not looked at any more


@dataclass
class Examined:
    """The recipes in a commit."""

    checkout: Path
    ready: dict[str, Prepared] = field(default_factory=dict)  # by the recipe's name
    broken: dict[str, str] = field(default_factory=dict)  # recipe ('': all of them) -> why
    differ: dict[str, list[str]] = field(default_factory=dict)  # recipe -> images that would change
    exceeded: bool = False  # one of them took more than it may


def inside(path: str) -> str:
    """Normalise a path in a repository. Raises BadInput."""
    parts = PurePosixPath(path).parts
    if not path or not path.isprintable() or path.startswith("/") or ".." in parts or ".git" in parts:
        raise BadInput(f"{path!r} is not a path in a repository", hint="name the recipe from the top of the repository")
    return str(PurePosixPath(path))


def in_checkout(checkout: Path, path: str) -> Path:
    """A path in a checkout; raises BadInput if it does not exist, or leads out of the checkout."""
    at = checkout / path
    real, root = os.path.realpath(at), os.path.realpath(checkout)
    if os.path.commonpath([real, root]) != root:
        raise BadInput(f"{path} leads out of the repository", hint="recipes are files of the repository itself")
    if not os.path.exists(real):
        raise BadInput(f"there is no {path} in the repository", hint="name the recipe from the top of the repository")
    return at


def examine(
    config: Config, origin: Origin, checkout: Path, commit: str, before: Mapping[str, Registered], control: Control
) -> Examined:
    """Check every recipe of a commit, and compare it with the registered one."""
    found = Examined(checkout)
    told = {
        name: {"url": origin.url, "ref": origin.ref, "path": path, "commit": commit}
        for name, path in _files(origin, checkout, found.broken).items()
    }
    registered = {name: old for name, old in before.items() if old.repository is not None}
    for names in _shares(config, told, registered, origin, checkout, control, found):
        for name, said in names.items():
            if "broken" in said:
                found.broken[name] = plain(said["broken"], checkout, origin)
                found.exceeded |= said["exceeded"]
                continue
            file = in_checkout(checkout, str(told[name]["path"]))
            found.ready[name] = prepared(file, name, tuple(said["images"]), told[name])
            found.differ[name] = said["differ"]
    return found


def _shares(
    config: Config,
    told: Mapping[str, Json],
    registered: Mapping[str, Registered],
    origin: Origin,
    checkout: Path,
    control: Control,
    found: Examined,
) -> Iterable[Mapping[str, Any]]:
    """What the child says of all recipes at once; if that is too much for it, of each alone, to know which one it is."""

    def look(names: Iterable[str]) -> Mapping[str, Any]:
        what = f"the check of {git.named(origin.url)[1]}"
        some = {name: told[name] for name in names}
        known = {name: registered[name] for name in some if name in registered}
        said: Mapping[str, Any] = bounded.call(
            checked, config, checkout, some, known, control=control, what=what, bounds=BOUNDS
        )
        return said

    if not told:
        return
    try:
        yield look(told)
    except _HARM:
        found.exceeded, bad, end = True, 0, time.monotonic() + ALONE
        for name in told:
            if bad == _PATIENCE or time.monotonic() > end:
                found.broken[name] = "it was not checked: other recipes of this commit took too much"
                continue
            try:
                yield look([name])
            except _HARM as error:
                found.broken[name], bad = str(error), bad + 1


# -- in the child --------------------------------------------------------------------------------------


def checked(config: Config, checkout: Path, told: Mapping[str, Json], before: Mapping[str, Registered]) -> Json:
    """Of each recipe: its canonical images and which of them changed, or why it is broken."""
    said: dict[str, Json] = {}
    for name, repository in told.items():
        try:
            check_name(name)
            file = in_checkout(checkout, str(repository["path"]))
            images = canonical_images(config, file, name, repository=repository)
        except BadInput as error:
            said[name] = {"broken": str(error), "exceeded": isinstance(error, Exceeded)}
            continue
        said[name] = {"images": images, "differ": _differing(config, images, file.parent, before.get(name))}
    return said


def _differing(config: Config, images: Iterable[Json], folder: Path, old: Registered | None) -> list[str]:
    """The images that changed: their recipes, or local files that they are made from."""
    earlier = {} if old is None else {str(image["name"]): image for image in old.images}
    found = []
    for image in images:
        now = _inputs(image, folder, config)
        before = earlier.get(str(image["name"]))
        if before is None or not fingerprint.same(before, image):
            found.append(str(image["name"]))
            continue
        assert old is not None
        then = _inputs(before, Path(old.path).parent, config)
        if then is None or then != now:
            found.append(str(image["name"]))
    return found


def _inputs(canonical: Json, folder: Path, config: Config) -> dict[str, str] | None:
    """The local files that an image is made from, as digests; None when they can't be read (any more)."""
    from imageflow.inputs import files, local
    from imageflow.recipe import ImageRecipe
    from imageflow.recipe.inputs import of_image

    try:
        found = local(ImageRecipe.from_json(canonical), folder, config)
        for named in of_image(canonical):
            if named.path[0] in ("base", "iso") and not os.path.isabs(named.name):
                found[f"{'.'.join(map(str, named.path))}"] = files.digest(named.at(folder))
    except ImageflowError:
        return None
    return found


# -- names and messages --------------------------------------------------------------------------------


def _files(origin: Origin, checkout: Path, broken: dict[str, str]) -> dict[str, str]:
    """The recipes of a commit: name -> path in the repository. Problems with a recipe are added to `broken`."""
    try:
        at = in_checkout(checkout, origin.path)
        if at.is_dir() != origin.folder:
            raise BadInput(f"{origin.path} is {'not a' if origin.folder else 'a'} folder now")
    except BadInput as error:
        broken[""] = str(error)
        return {}
    if not origin.folder:
        return {origin.name: origin.path}
    found: dict[str, str] = {}
    for entry in sorted(at.iterdir()):
        if entry.suffix not in _SUFFIXES or entry.name.startswith(".") or not entry.name.isprintable():
            continue
        name = f"{origin.name}/{entry.stem}"
        if name in found:
            broken[name] = f"{found[name]} and {entry.name} would both be the recipe {name}"
        found[name] = str(PurePosixPath(origin.path, entry.name))
    if len(found) > _MANY:
        broken[""] = f"{origin.path} has {len(found)} recipes: {_MANY} is the most"
        return {}
    return {name: path for name, path in found.items() if name not in broken}


def plain(message: str, checkout: Path, origin: Origin) -> str:
    """The message with places as in the repository."""
    return message.replace(f"{checkout}/", "").replace(str(checkout), git.named(origin.url)[1])
