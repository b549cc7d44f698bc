"""All inputs of a build, pinned before the build exists."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from imageflow.config import Config
from imageflow.fetch import guard
from imageflow.inputs import elements, files, machines, pins
from imageflow.inputs.machines import BaseOf, source, source_name
from imageflow.inputs.pins import Kind
from imageflow.recipe import ImageRecipe, secret_values

__all__ = ["BaseOf", "check", "local", "pin", "source", "source_name"]


def pin(image: ImageRecipe, folder: Path, config: Config, base_of: BaseOf = machines.no_image) -> dict[str, str]:
    """The current state of each input of the image, by name; `base_of` returns the digest of another image.

    For method dib (see `machines.pin` for the others):
    "element:NAME" tree digest, "file:PATH" SHA-256, "tool:NAME" version, "archive:SUITE" SHA-256 of its
    signed Release file (or "archive": "unpinned: why"), "diskimage-builder" and "imageflow" versions, "architecture".
    Raises RecipeError for missing or unusable inputs, Unavailable when an archive does not answer,
    Refused when a tool is missing.
    """
    if image.method != "dib":
        return machines.pin(image, folder, config, base_of)
    from imageflow.inputs import archives, tools

    used = elements.used(image, elements.search_path(image, folder, config))
    environment = _environment(image, config)
    suites = archives.suites(environment, list(used), elements.architecture(image))
    permitted = guard.policy(config)
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="pin")
    try:
        found: dict[str, Future[str]] = {}
        for name, suite in suites.items():
            found[name] = pool.submit(archives.digest, suite, environment, permitted)
        for name in tools.wanted(image, used):
            found[pins.pin_name(Kind.TOOL, name)] = pool.submit(tools.version, name)
        pinned = local(image, folder, config, used)
        pinned |= {name: future.result() for name, future in found.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error, do not wait for the others
    pinned["architecture"] = elements.architecture(image)
    pinned |= tools.packages()
    if not suites:
        pinned[pins.pin_name(Kind.ARCHIVE)] = f"unpinned: {archives.unpinned(list(used))}"
    return dict(sorted(pinned.items()))


def check(image: ImageRecipe, folder: Path, config: Config) -> None:
    """Raise RecipeError unless every element and local file of the image exists; reads none of them."""
    if image.method != "dib":
        machines.check(image, folder)
        return
    elements.used(image, elements.search_path(image, folder, config))
    files.named(image, folder)


def local(image: ImageRecipe, folder: Path, config: Config, used: dict[str, Path] | None = None) -> dict[str, str]:
    """The pins of files and elements only: cheap, without network access."""
    if image.method != "dib":
        return machines.local(image, folder)
    if used is None:
        used = elements.used(image, elements.search_path(image, folder, config))
    found = {pins.pin_name(Kind.ELEMENT, name): elements.tree_digest(path) for name, path in used.items()}
    return found | {
        pins.pin_name(Kind.FILE, name): files.digest(path) for name, path in files.named(image, folder).items()
    }


def _environment(image: ImageRecipe, config: Config) -> dict[str, str]:
    """The part of the definition's environment that archives need; a mirror's URL may contain credentials."""
    from imageflow.inputs import archives

    environment = {}
    for name, value in image.dib.get("environment", {}).items():
        if isinstance(value, str):
            environment[name] = value
        elif name in archives.VARIABLES:
            environment[name] = secret_values.resolve(value["secret"], config)
    return environment
