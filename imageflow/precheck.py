"""What can be known of an image before anything boots: answer file, ISO, tools of provisioners, properties for stores."""

from __future__ import annotations

import os
from pathlib import Path

from imageflow import provisioners, stores, targets
from imageflow.config import Config
from imageflow.errors import RecipeError, Refused
from imageflow.iso import Answers, answers, media, method
from imageflow.recipe import ImageRecipe
from imageflow.recipe.problems import path_name
from imageflow.stages import kind_of

_LARGEST = 1 << 20  # bytes of an answer file


def check(image: ImageRecipe, folder: Path, config: Config) -> None:
    """Raise RecipeError with every problem of the answer file, or the first other one; `folder` is the recipe's."""
    _check_properties(image, config)
    if image.method == "dib":
        return
    if image.method == "install":
        _check_answers(image, folder)
        if (file := image.data["iso"].get("file")) is not None:
            try:
                found = media.inspect(folder / file)
                method.require(found, Answers(image.answers[0]), image.machine["firmware"])
            except Refused as error:
                raise image.error(("iso", "file"), error.message, error.hint) from None
    for index, step in enumerate(image.configure):
        kind = kind_of(step)
        try:
            provisioners.find(kind).check(step[kind], folder)
        except (RecipeError, Refused) as error:
            raise image.error(("configure", index, kind), error.message, error.hint) from None


def _check_properties(image: ImageRecipe, config: Config) -> None:
    """What a store that it goes into would refuse when all is built."""
    properties = (image.data.get("publish") or {}).get("properties")
    if not properties:
        return
    try:
        for store in (stores.store(config), *(target.store for target in targets.parse(config))):
            store.check_properties(properties)
    except RecipeError as error:
        path = ("publish", "properties")
        raise image.error(path, error.message.removeprefix(f"{'.'.join(path)}: "), error.hint) from None


def _check_answers(image: ImageRecipe, folder: Path) -> None:
    kind, name = image.answers
    path = folder / name
    if os.path.getsize(path) > _LARGEST:
        raise image.error(("answers", kind), f"{name} is larger than 1 MiB", "an answer file is a short text")
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise image.error(("answers", kind), f"{name} is not text in UTF-8", "save it as UTF-8") from None
    problems = answers.check(Answers(kind), text, name, image.data["answers"].get("release"))
    if problems:
        shown = [
            f"{path_name(path)}:{problem.line or 1}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")
            for problem in problems
        ]
        raise RecipeError("\n".join(shown))
