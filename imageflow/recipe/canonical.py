"""The canonical form of an image: its recipe as JSON with every default filled in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imageflow.recipe import definition, models, on
from imageflow.recipe.inputs import is_url
from imageflow.recipe.steps import ConfigureStep


def canonical(model: models.Image, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """See ImageRecipe.canonical; `entry`: diskimage-builder's definition, merged; `folder`: the recipe's, absolute."""
    data: dict[str, Any] = {"name": model.name, "method": model.method}
    if isinstance(model, models.DibImage):
        data |= {"dib": entry, "configure": [_whole(step, folder) for step in model.configure]}
        data["outputs"] = model.outputs or definition.outputs(entry)
    else:
        data |= _of_machine(model, folder)
    data |= {
        "publish": _publish(model.publish) | {"name": model.publish.name or model.name},
        "on_failure": model.on_failure,
        "timeout": model.timeout.model_dump(),
        "on": on.canonical(model.on, lambda name: _one_name(name, folder)),
    }
    return data


def _publish(publish: models.Publish) -> dict[str, Any]:
    """Leave out later additions that are not set, so that recipes without them keep their build keys."""
    return {key: value for key, value in publish.model_dump().items() if key != "visibility" or value is not None}


def _of_machine(model: models.Image, folder: Path) -> dict[str, Any]:
    """The keys of the methods that use a machine."""
    assert isinstance(model, models.BootImage | models.InstallImage)
    data: dict[str, Any] = {}
    if isinstance(model, models.BootImage):
        data["base"] = _source(model.base, folder)
    else:
        data["iso"] = _source(model.iso, folder)
        answers = model.answers.model_dump(exclude_none=True)
        data["answers"] = _relative(answers, (model.answers.kind,), folder)
    data["machine"] = model.machine.model_dump()
    data["configure"] = [_whole(step, folder) for step in model.configure]
    data["verify"] = [
        {
            "shell": _relative(check.shell.model_dump(exclude_none=True, exclude={"reboot"}), ("source",), folder),
            "timeout": check.timeout,
        }
        for check in model.verify
    ]
    data["outputs"] = list(model.outputs)
    return data


def _source(source: models.Base | models.Iso, folder: Path) -> dict[str, Any]:
    value = source.model_dump(exclude_none=True)
    if not value.get("properties"):
        value.pop("properties", None)
    return _relative(value, ("file", "checksums"), folder)


def _relative(value: dict[str, Any], keys: Sequence[str], folder: Path) -> dict[str, Any]:
    """The value with normalized paths: relative to the recipe's folder if the file is in it."""
    for key in keys:
        if key in value and not (key == "checksums" and is_url(value[key])):
            value[key] = _one_name(value[key], folder)
    return value


def _one_name(name: str, folder: Path) -> str:
    absolute = os.path.abspath(folder / name)
    inside = os.path.commonpath([absolute, folder]) == str(folder)
    return os.path.relpath(absolute, folder) if inside or not os.path.isabs(name) else absolute


def _whole(step: ConfigureStep, folder: Path) -> dict[str, Any]:
    """A step with all defaults, normalized paths of local files, and its own limits."""
    whole: dict[str, Any] = step.model_dump(exclude_none=True, by_alias=True)
    if not whole.get("checkpoint"):
        whole.pop("checkpoint", None)
    for file in whole.get("files", ()):
        _relative(file, ("source",), folder)
        if not file.get("template"):
            file.pop("template", None)
            file.pop("variables", None)
    for value in whole.values():
        if isinstance(value, dict) and value.get("reboot") is False:
            value.pop("reboot")
    if "shell" in whole:
        _relative(whole["shell"], ("source",), folder)
    for key, names in (
        ("ansible", ("playbook",)),
        ("puppet", ("manifest",)),
        ("salt", ("states",)),
        ("chef", ("cookbooks",)),
    ):
        if key in whole:
            _relative(whole[key], names, folder)
    for key, name in (("ansible", "with"), ("puppet", "modules")):
        if key in whole:
            whole[key][name] = [_one_name(each, folder) for each in whole[key][name]]
    return whole
