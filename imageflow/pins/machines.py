"""Everything that goes into an image that is made on a machine, pinned."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow import fetch
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import Corrupt, NotFound, RecipeError, Refused
from imageflow.pins import checksums, files, glance, tools
from imageflow.recipe import ImageRecipe, inputs

BaseOf = Callable[[str], str]  # name of an image -> digest of its newest version; raises NotFound


def no_image(name: str) -> str:
    """There are none to be made from."""
    raise NotFound(f"there is no image {name!r}", hint="build it first")


def pin(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf) -> dict[str, str]:
    """What each input is right now, by name.

    "base:image:NAME" digest, "base:file" and "base:url" and "iso" SHA-256, "base:glance:NAME" and "iso:glance:NAME"
    'ID:ALGORITHM:HEX', "file:PATH" SHA-256, "tool:NAME" version, "imageflow" version, "architecture". Raises as `pins.pin`.
    """
    pins = local(image, folder)
    pins |= _base(image, folder, config, base_of)
    pins["tool:qemu-img"] = tools.version("qemu-img")
    if any("ansible" in step for step in image.configure):
        pins["tool:ansible"] = _ansible()
    pins["imageflow"] = importlib.metadata.version("imageflow")
    pins["architecture"] = platform.machine()
    return dict(sorted(pins.items()))


def local(image: ImageRecipe, folder: Path) -> dict[str, str]:
    """The pins of the files in the recipe's folder: cheap."""
    found: dict[str, str] = {}
    for named in inputs.of_image(image.data):
        if named.path[0] not in ("base", "iso"):
            found |= {f"file:{name}": files.digest(path) for name, path in _each(image, named, folder)}
    return found


def check(image: ImageRecipe, folder: Path) -> None:
    """Raise RecipeError unless every local file and folder is there; reads none of them."""
    for named in inputs.of_image(image.data):
        if wrong := named.unusable(folder):
            raise image.error(named.path, *wrong)


def _each(image: ImageRecipe, named: inputs.Input, folder: Path) -> Iterator[tuple[str, Path]]:
    """The regular files of an input, by their names from the recipe's folder; links in a folder must stay in it."""
    if wrong := named.unusable(folder):
        raise image.error(named.path, *wrong)
    at = named.at(folder)
    if not at.is_dir():
        yield named.name, at
        return
    root = os.path.realpath(at)
    for where, folders, names in os.walk(at, followlinks=False):
        folders.sort()
        for name in sorted(names + [each for each in folders if os.path.islink(os.path.join(where, each))]):
            path = os.path.join(where, name)
            if os.path.commonpath([os.path.realpath(path), root]) != root:
                raise image.error(
                    named.path, f"{os.path.relpath(path, folder)} leads out of its folder", "copy what it leads to"
                )
            if os.path.isfile(path):
                yield os.path.relpath(path, folder), Path(path)


def _base(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf) -> dict[str, str]:
    key = "base" if image.method == "boot" else "iso"
    given = image.data[key]
    if name := given.get("image"):
        try:
            return {f"base:image:{name}": base_of(name)}
        except NotFound as error:
            raise image.error((key, "image"), f"there is no image {name!r}", f"build it first; {error.hint}") from None
    return {source_name(image): source(image, folder, config)}


def source_name(image: ImageRecipe) -> str:
    """The name of the pin of what the image is made from, where that is no image of ours."""
    key = "base" if image.method == "boot" else "iso"
    given = image.data[key]
    if "glance" in given:
        return f"{key}:glance:{given['glance']}"
    return "iso" if key == "iso" else f"base:{'url' if 'url' in given else 'file'}"


def source(image: ImageRecipe, folder: Path, config: Config) -> str:
    """The pin of the file, URL or image in Glance that the image is made from, right now. Raises as `pin`."""
    key = "base" if image.method == "boot" else "iso"
    given = image.data[key]
    if "sha256" in given and "url" in given:
        return str(given["sha256"])
    try:
        if "glance" in given:
            return glance.look_up(given, config)
        if "url" in given:
            return checksums.look_up(given["url"], given["checksums"], folder)
        return fetch.local(folder / given["file"], given.get("sha256"), config=config, control=Control())
    except (Corrupt, Refused, RecipeError) as error:
        named = "glance" if "glance" in given else "checksums" if "url" in given else "file"
        raise image.error((key, named), error.message, error.hint) from None


def _ansible() -> str:
    try:
        return importlib.metadata.version("ansible-core")
    except importlib.metadata.PackageNotFoundError:
        raise Refused("ansible is not installed on this host", hint="pip install 'imageflow[ansible]'") from None
