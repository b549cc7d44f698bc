"""Resolves a secret's value at the moment of use; nothing else in imageflow ever stores one.

`NAME` comes from IMAGEFLOW_SECRET_NAME in the environment, otherwise from the file NAME in the folder of
`[secrets] directory`. `recipe:FILE#IMAGE/VARIABLE` is plain text in a recipe file: it is read again from
there, because it must not be stored anywhere else. In place of VARIABLE it can be a path of keys, such as
`configure/0/shell/environment/NAME`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imageflow.config import Config
from imageflow.errors import RecipeError, SecretMissing

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_IN_RECIPE = re.compile(
    r"recipe:(?P<file>/.*)#(?P<image>[^#/]+)/(?P<variable>[A-Za-z_][A-Za-z0-9_]*|(?:configure|verify)/[^#]+)", re.DOTALL
)
_MAX_BYTES = 1 << 20


def variable(name: str) -> str:
    """The environment variable that may contain this secret."""
    return "IMAGEFLOW_SECRET_" + re.sub(r"[.-]", "_", name)


def resolve(name: str, config: Config) -> str:
    """The secret's value, without its trailing line feed.

    Raises SecretMissing, which names the searched places.
    """
    if place := _IN_RECIPE.fullmatch(name):
        return _from_recipe(Path(place["file"]), place["image"], place["variable"])
    if not _NAME.fullmatch(name):
        raise SecretMissing(f"{name[:60]!r} can't be a secret's name", hint="letters, digits, '_', '.' and '-'")
    for key in (variable(name), variable(name).upper()):
        if key in os.environ:
            return os.environ[key]
    value = _from_file(config.secrets_dir / name)
    if value is None:
        raise SecretMissing(
            f"there is no secret {name!r}",
            hint=f"set {variable(name)}, or write it to {config.secrets_dir / name}, where the build runs",
        )
    return value


def named_in(recipe: Any) -> Iterator[str]:
    """The name of every secret that a canonical recipe, or a part of one, refers to."""
    if isinstance(recipe, Mapping):
        if set(recipe) == {"secret"} and isinstance(recipe["secret"], str):
            yield recipe["secret"]
        recipe = list(recipe.values())
    if isinstance(recipe, list | tuple):
        for part in recipe:
            yield from named_in(part)


def _from_file(path: Path) -> str | None:
    try:
        # do not block on a FIFO
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SecretMissing(f"{path} can't be read: {error.strerror}", hint="check its permissions") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SecretMissing(f"{path} is not a regular file", hint="write the secret to a file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise SecretMissing(f"{path} is larger than 1 MiB", hint="a secret is a short text")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretMissing(f"{path} is not UTF-8 text", hint="a secret is a short text") from None


def _from_recipe(path: Path, image: str, name: str) -> str:
    from imageflow import recipe

    hint = f"the build needs the value of {name} from there; put it back, or use {{secret: NAME}} instead"
    try:
        value = recipe.plain_secret(path, image, name)
    except RecipeError as error:
        raise SecretMissing(f"{path} can't be read any more: {error.message}", hint=hint) from None
    if value is None:
        raise SecretMissing(f"{path} no longer has {name} for image {image!r}", hint=hint)
    return value
