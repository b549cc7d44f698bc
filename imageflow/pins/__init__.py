"""Everything that goes into a build, pinned before the build exists."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from imageflow import secrets
from imageflow.config import Config
from imageflow.pins import archives, elements, files, machines, tools
from imageflow.pins.machines import BaseOf, source, source_name
from imageflow.recipe import ImageRecipe

__all__ = ["BaseOf", "check", "local", "pin", "source", "source_name"]


def pin(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf = machines.no_image) -> dict[str, str]:
    """What each input of the image is right now, by name; `base_of` gives the digest of another image.

    For method dib (`machines.pin` tells of the others):
    "element:NAME" tree digest, "file:PATH" SHA-256, "tool:NAME" version, "archive:SUITE" SHA-256 of its
    signed Release file (or "archive": "unpinned: why"), "diskimage-builder" and "imageflow" versions, "architecture".
    Raises RecipeError for what is not there or can't work, Unavailable when an archive does not answer,
    Refused when a tool is missing.
    """
    if image.method != "dib":
        return machines.pin(image, folder, config, base_of)
    used = elements.used(image, elements.search_path(image, folder, config))
    environment = _environment(image, config)
    suites = archives.suites(environment, list(used), elements.architecture(image))
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="pin")
    try:
        found: dict[str, Future[str]] = {}
        for name, suite in suites.items():
            found[name] = pool.submit(archives.digest, suite, environment)
        for name in tools.wanted(image, used):
            found[f"tool:{name}"] = pool.submit(tools.version, name)
        pins = local(image, folder, config, used)
        pins |= {name: future.result() for name, future in found.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error, nobody waits for the others
    pins["architecture"] = elements.architecture(image)
    pins |= tools.packages()
    if not suites:
        pins["archive"] = f"unpinned: {archives.unpinned(list(used))}"
    return dict(sorted(pins.items()))


def check(image: ImageRecipe, folder: Path, config: Config) -> None:
    """Raise RecipeError unless every element and local file of the image is there; reads none of them."""
    if image.method != "dib":
        machines.check(image, folder)
        return
    elements.used(image, elements.search_path(image, folder, config))
    files.named(image, folder)


def local(image: ImageRecipe, folder: Path, config: Config, used: dict[str, Path] | None = None) -> dict[str, str]:
    """The pins of files and elements only: cheap, and without the network."""
    if image.method != "dib":
        return machines.local(image, folder)
    if used is None:
        used = elements.used(image, elements.search_path(image, folder, config))
    pins = {f"element:{name}": elements.tree_digest(path) for name, path in used.items()}
    return pins | {f"file:{name}": files.digest(path) for name, path in files.named(image, folder).items()}


def _environment(image: ImageRecipe, config: Config) -> dict[str, str]:
    """The definition's environment, as far as archives need it; a mirror's URL may hold credentials."""
    environment = {}
    for name, value in image.dib.get("environment", {}).items():
        if isinstance(value, str):
            environment[name] = value
        elif name in archives.VARIABLES:
            environment[name] = secrets.resolve(value["secret"], config)
    return environment
