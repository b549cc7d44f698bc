"""Checks an image before anything boots: answer file, ISO, tools of provisioners, properties for stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imageflow import provisioners, stores
from imageflow.config import Config
from imageflow.errors import Exceeded, NotText, RecipeError, Refused
from imageflow.host import text
from imageflow.inputs.stages import kind_of
from imageflow.iso import Answers, answers, bootconfig, fit, media, method
from imageflow.recipe import ImageRecipe
from imageflow.recipe.problems import path_name
from imageflow.stores import targets

_LARGEST = 1 << 20  # bytes of an answer file, and of a script that is looked into
_BLOCK_DEVICES = "DIB_BLOCK_DEVICE_CONFIG"
_MANY = 30  # problems or remarks that are told one by one


def check(image: ImageRecipe, folder: Path, config: Config) -> tuple[str, ...]:
    """Check what the models can't; `folder` is the recipe's. Returns remarks: what is odd, and stops no build.

    Raises RecipeError with every problem of the answer file, or the first other problem.
    """
    _check_properties(image, config)
    if image.method == "dib":
        _check_block_devices(image)
        return ()
    remarks: list[str] = []
    if image.method == "install":
        remarks += _check_install(image, folder, config)
    for index, step in enumerate(image.configure):
        kind = kind_of(step)
        try:
            provisioners.find(kind).check(step[kind], folder)
        except (RecipeError, Refused) as error:
            raise image.error(("configure", index, kind), error.message, error.hint) from None
        except Exceeded as error:
            where = image.error(("configure", index, kind), error.message)
            raise Exceeded(where.message, hint=error.hint) from None
    for step in (*image.configure, *image.verify):
        remarks += _conversions(step, folder)
    return tuple(dict.fromkeys(remarks))


def _check_block_devices(image: ImageRecipe) -> None:
    """What diskimage-builder would find after it has made the whole tree."""
    given = image.dib.get("environment", {}).get(_BLOCK_DEVICES)
    if isinstance(given, str):
        from imageflow.dib import blockdevice

        try:
            blockdevice.read(blockdevice.configuration({}, {_BLOCK_DEVICES: given}, ""))
        except RecipeError as error:
            raise image.error(("dib", "environment", _BLOCK_DEVICES), error.message, error.hint) from None


def _check_properties(image: ImageRecipe, config: Config) -> None:
    """What a target store would refuse after the whole build."""
    properties = image.publish.properties
    if not properties:
        return
    try:
        for store in (stores.store(config), *(target.store for target in targets.parse(config))):
            store.check_properties(properties)
    except RecipeError as error:
        path = ("publish", "properties")
        raise image.error(path, error.message.removeprefix(f"{'.'.join(path)}: "), error.hint) from None


def _check_install(image: ImageRecipe, folder: Path, config: Config) -> list[str]:
    """The answer file and a local ISO, each and together; -> remarks."""
    medium, refused = None, None
    if (file := image.made_from.file) is not None:
        try:
            medium = media.inspect(folder / file)
            method.require(medium, Answers(image.answers.kind), image.machine.firmware)
            fit.require_architecture(medium, config.machine_architecture)
        except Refused as error:
            refused = image.error(("iso", "file"), error.message, error.hint)
    remarks = _check_answers(image, folder, None if refused else medium)
    if refused is not None:
        raise refused
    others = [word for word in (image.answers.arguments or "").split() if bootconfig.names_answers(word)]
    return [
        *remarks,
        *(f"answers.arguments: {word} names other answers beside {image.answers.name}" for word in others),
    ]


def _check_answers(image: ImageRecipe, folder: Path, medium: media.Media | None) -> list[str]:
    kind, name = Answers(image.answers.kind), image.answers.name
    path, shown = folder / name, path_name(folder / name)
    if os.path.getsize(path) > _LARGEST:
        raise image.error(("answers", kind), f"{name} is larger than 1 MiB", "an answer file is a short text")
    try:
        read = answers.read(kind, path.read_bytes())
    except NotText as error:
        raise RecipeError(f"{shown}:{error.line or 1}: {error.message}", hint=error.hint) from None
    release = image.answers.release
    found = answers.check(kind, read.text, name, fit.release(medium, kind, release) if medium else release)
    found += fit.problems(medium, kind, read.text, release) if medium else []
    if wrong := [problem.shown(shown) for problem in found if not problem.remark]:
        raise RecipeError("\n".join(_first(wrong, "problems")))
    return [*_stored(shown, read.notes), *_first([problem.shown(shown) for problem in found], "remarks")]


def _first(lines: list[str], what: str) -> list[str]:
    return lines if len(lines) <= _MANY else [*lines[:_MANY], f"… and {len(lines) - _MANY} more {what}"]


def _conversions(step: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Remarks on scripts and templates that are read as another text than they are stored."""
    script, named = step.get("shell"), []
    if script and script.get("source") is not None:
        named.append((script["source"], True))
    for entry in step.get("files", ()):
        if entry.get("template") and entry.get("source") is not None:
            named.append((entry["source"], False))
    for name, runs in named:
        path = folder / name
        if path.stat().st_size <= _LARGEST and text.is_text(data := path.read_bytes()):
            yield from _stored(path_name(folder / name), text.read(data, script=runs).notes)


def _stored(shown: str, notes: Sequence[str]) -> Iterator[str]:
    for note in notes:
        yield f"{shown}: {note}"
