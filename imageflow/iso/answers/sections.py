"""The sections of a kickstart, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator

NAMES = (
    "%pre", "%pre-install", "%post", "%packages", "%addon", "%onerror", "%traceback", "%certificate", "%anaconda",
)  # fmt: skip


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(line, enclosing section or ''); the lines that begin and end a section are outside."""
    section = ""
    for line in text.rstrip("\n").split("\n"):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word == "%end":
            section = ""
            yield line, ""
        elif word in NAMES:
            yield line, ""
            section = word
        else:
            yield line, section


def open_sections(text: str) -> Iterator[tuple[int, str]]:
    """(line where it begins, name) of each section without its %end."""
    begun: tuple[int, str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word == "%end":
            begun = None
        elif word in NAMES:
            if begun:
                yield begun
            begun = (number, word)
    if begun:
        yield begun
