"""Problems of a recipe as messages: one line for each, with its place and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imageflow.errors import RecipeError

Path = tuple[str | int, ...]  # keys and list indexes from the root of the recipe
_SHOWN = 60  # characters of a value that a message quotes
_MANY = 30  # problems that one error lists


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; `place` is FILE:LINE: KEY.PATH."""

    place: str
    message: str
    hint: str = ""
    line: int = 0  # for sorting only

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def error(problems: Iterable[Problem]) -> RecipeError:
    """One error for all problems, a line for each, in file order."""
    found = sorted(dict.fromkeys(problems), key=lambda problem: problem.line)
    if len(found) == 1:
        return RecipeError(f"{found[0].place}: {found[0].message}", hint=found[0].hint)
    lines = [str(problem) for problem in found[:_MANY]]
    if len(found) > _MANY:
        lines.append(f"… and {len(found) - _MANY} more problems")
    return RecipeError("\n".join(lines))


def dotted(path: Sequence[str | int]) -> str:
    """`images[0].dib.elements` of ("images", 0, "dib", "elements")."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{short(part)}" if text else short(part)
    return text


def short(value: object, most: int = _SHOWN) -> str:
    """The value as one short line of text without control characters."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in str(value)[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def path_name(path: object) -> str:
    """A file's path, shortened only if absurdly long."""
    return short(path, 300)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint with the closest known word, otherwise `otherwise`."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else otherwise


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = list(words)
    return f"{', '.join(rest)} or {last}" if rest else last
