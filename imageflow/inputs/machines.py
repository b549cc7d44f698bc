"""Pins all inputs of an image that is made on a machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow import fetch
from imageflow.config import Config
from imageflow.errors import Corrupt, NotFound, RecipeError, Refused
from imageflow.fetch import guard
from imageflow.host.control import Control
from imageflow.inputs import files, glance, pins
from imageflow.inputs.pins import Kind
from imageflow.recipe import ImageRecipe, inputs

BaseOf = Callable[[str], str]  # name of an image -> digest of its newest version; raises NotFound


def no_image(name: str) -> str:
    """A BaseOf for callers without images."""
    raise NotFound(f"there is no image {name!r}", hint="build it first")


def pin(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf) -> dict[str, str]:
    """The current state of each input, by name.

    "base:image:NAME" digest, "base:file" and "base:url" and "iso" SHA-256, "base:glance:NAME" and "iso:glance:NAME"
    'ID:ALGORITHM:HEX', "file:PATH" SHA-256, "tool:NAME" version, "imageflow" version, "architecture". Raises as `inputs.pin`.
    """
    from imageflow.inputs import tools

    found = local(image, folder)
    found |= _base(image, folder, config, base_of)
    found[pins.pin_name(Kind.TOOL, "qemu-img")] = tools.version("qemu-img")
    if any("ansible" in step for step in image.configure):
        found[pins.pin_name(Kind.TOOL, "ansible")] = _ansible()
    found["imageflow"] = importlib.metadata.version("imageflow")
    found["architecture"] = platform.machine()
    return dict(sorted(found.items()))


def local(image: ImageRecipe, folder: Path) -> dict[str, str]:
    """The pins of the files in the recipe's folder: cheap."""
    found: dict[str, str] = {}
    for named in inputs.of_image(image.data):
        if named.path[0] not in ("base", "iso"):
            found |= {pins.pin_name(Kind.FILE, name): files.digest(path) for name, path in _each(image, named, folder)}
    return found


def check(image: ImageRecipe, folder: Path) -> None:
    """Raise RecipeError unless every local file and folder exists and can be copied; reads none of them."""
    for named in inputs.of_image(image.data):
        for _ in _each(image, named, folder):
            pass


def _each(image: ImageRecipe, named: inputs.Input, folder: Path) -> Iterator[tuple[str, Path]]:
    """The regular files of an input, by their paths from the recipe's folder; links in a folder must stay in it."""
    if wrong := named.unusable(folder):
        raise image.error(named.path, *wrong)
    at = named.at(folder)
    if not at.is_dir():
        yield named.name, at
        return
    try:
        for path in files.below(at):
            yield os.path.relpath(path, folder), path
    except files.Uncopyable as error:
        raise image.error(named.path, f"{os.path.relpath(error.path, folder)} {error.why}", error.hint) from None


def _base(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf) -> dict[str, str]:
    given = image.made_from
    if name := given.image:
        try:
            return {pins.pin_name(Kind.BASE, f"image:{name}"): base_of(name)}
        except NotFound as error:
            raise image.error(
                (given.key, "image"), f"there is no image {name!r}", f"build it first; {error.hint}"
            ) from None
    return {source_name(image): source(image, folder, config)}


def source_name(image: ImageRecipe) -> str:
    """The name of the pin of the image's base or ISO, if that is not an imageflow image."""
    given = image.made_from
    if given.glance:
        return pins.pin_name(Kind(given.key), f"glance:{given.glance}")
    return (
        pins.pin_name(Kind.ISO) if given.key == Kind.ISO else pins.pin_name(Kind.BASE, "url" if given.url else "file")
    )


def source(image: ImageRecipe, folder: Path, config: Config) -> str:
    """The current pin of the file, URL or image in Glance that the image is made from. Raises as `pin`."""
    given = image.made_from
    if given.sha256 and given.url:
        return given.sha256
    try:
        if given.glance:
            return glance.look_up(given, config)
        if given.url and given.checksums:
            from imageflow.inputs import checksums

            return checksums.look_up(given.url, given.checksums, folder, guard.policy(config))
        assert given.file, given
        return fetch.local(folder / given.file, given.sha256, config=config, control=Control())
    except (Corrupt, Refused, RecipeError) as error:
        named = "glance" if given.glance else "checksums" if given.url else "file"
        raise image.error((given.key, named), error.message, error.hint) from None


def _ansible() -> str:
    try:
        return importlib.metadata.version("ansible-core")
    except importlib.metadata.PackageNotFoundError:
        raise Refused("ansible is not installed on this host", hint="pip install 'imageflow[ansible]'") from None
