"""Reads and decodes an untrusted recipe file, and parses it into a tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imageflow.errors import NotText, RecipeError
from imageflow.host.text import read as read_text
from imageflow.recipe import problems
from imageflow.recipe.compose import UNPRINTABLE, Composer, unprintable
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, path_name

MAX_BYTES = 1 << 20


def read(path: Path) -> bytes:
    """The bytes of a small regular file; anything else is refused without blocking.

    Raises RecipeError.
    """
    name = path_name(path)
    try:
        # a FIFO would wait for its writer, a terminal would become our controlling terminal
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RecipeError(f"{name}: there is no such file", hint="check the path") from None
    except OSError as error:
        raise RecipeError(
            f"{name}: can't be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    except ValueError:
        raise RecipeError(f"{name}: is not a file name", hint="check the path") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise RecipeError(f"{name}: is a directory", hint="name the recipe file in it")
        if not stat.S_ISREG(mode):
            raise RecipeError(f"{name}: is not a regular file", hint="save the recipe in a file")
        data = b""
        while len(data) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES + 1 - len(data))):
            data += chunk
    except OSError as error:
        raise RecipeError(f"{name}: can't be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"{name}: is larger than 1 MiB, a recipe never is",
            hint="put long content in a file beside the recipe and name it with 'source:'",
        )
    return data


def parse(data: bytes, name: str) -> Node:
    """The root of one YAML document; `name` is used in messages. Raises RecipeError."""
    return Composer(name).compose(_decode(data, name))


def _decode(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(f"{name}:1: is UTF-16", hint="save it as UTF-8")
    try:
        text = read_text(data).text
    except NotText as error:
        raise RecipeError(f"{name}:{error.line}: {error.message}", hint=error.hint) from None
    if found := UNPRINTABLE.search(text):
        raise problems.error([_where(found.start(), text, name, unprintable(found))])
    return text


def _where(at: int, text: str, name: str, message: str) -> Problem:
    line = text.count("\n", 0, at) + 1
    return Problem(f"{name}:{line}:{at - text.rfind(chr(10), 0, at)}", message, "remove it")
