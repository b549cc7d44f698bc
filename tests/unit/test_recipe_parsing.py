"""YAML with our own limits: they hold for every parser, and speak before it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from yaml.scanner import ScannerError

from imageflow.dib import blockdevice
from imageflow.errors import BadInput, RecipeError
from imageflow.iso import Additions, Answers
from imageflow.iso.answers import check, compose
from imageflow.recipe import parsing

DEEP = parsing.MAX_DEPTH


class Shy(yaml.SafeLoader):
    """A parser that stops deep nesting itself while it looks ahead, as releases of libyaml do."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > DEEP:
            raise ScannerError("while it counts", self.get_mark(), "had enough", self.get_mark())
        super().fetch_flow_collection_start(TokenClass)  # type: ignore[misc]


class Late(yaml.SafeLoader):
    """The same, with a mark behind what it stops at."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        super().fetch_flow_collection_start(TokenClass)  # type: ignore[misc]
        if self.flow_level > DEEP + 1:
            raise ScannerError(None, None, "had enough", self.get_mark())


PARSERS = [yaml.SafeLoader, Shy, Late, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=PARSERS, ids=lambda parser: parser.__name__)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of them in turn is the one that PyYAML offers."""
    monkeypatch.setattr(parsing, "_LOADER", request.param)
    return request.param


def flow(count: int) -> str:
    return "[" * count + "]" * count


def mapping(count: int) -> str:
    return "{a: " * count + "b" + "}" * count


def dashes(count: int) -> str:
    return "- " * count + "a"


def questions(count: int) -> str:
    return "? " * count + "a"


def indented(count: int) -> str:
    return "".join(f"{' ' * depth}a:\n" for depth in range(count))


def mixed(count: int) -> str:
    return "- " * (count // 2) + flow(count - count // 2)


def aliases(count: int) -> str:
    """A list in which each entry is the one before with one level more around it."""
    return "- &a0 []\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, count - 1))


SHAPES = [flow, mapping, dashes, questions, indented, mixed, aliases]


@pytest.mark.parametrize("shape", SHAPES)
def test_just_deep_enough(shape: Callable[[int], str], parser: Any) -> None:
    for _ in parsing.events(shape(DEEP)):
        pass


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [DEEP + 1, DEEP + 2, 500, 3000])
def test_too_deep(shape: Callable[[int], str], count: int, parser: Any) -> None:
    with pytest.raises(parsing.TooDeep, match=f"nested deeper than {DEEP} levels"):
        parsing.load(shape(count))


@pytest.mark.parametrize("text", ["[" * 500_000, "a: " + "[" * 500_000, "{" * 500_000, "- " * 500_000, "[{" * 250_000])
def test_the_depth_of_what_never_ends_is_told_soon(text: str, parser: Any) -> None:
    began = time.process_time()
    with pytest.raises(parsing.TooDeep) as caught:
        parsing.load(text)
    assert time.process_time() - began < 5
    assert caught.value.line == 1


def test_what_comes_first_is_told_first(parser: Any) -> None:
    """Where a file is broken before it is deep, or is broken and not deep, that is its problem."""
    for text in ("a: ]\nb: " + "[" * 100, "a: [1, 2\n", "a: *b]", 'a: "', "[" * DEEP, f"a: {'[' * (DEEP - 1)} @"):
        with pytest.raises(yaml.YAMLError) as caught:
            parsing.load(text)
        assert not isinstance(caught.value, parsing.TooDeep), text


def test_brackets_that_are_text_are_no_nesting(parser: Any) -> None:
    many = "[" * 500
    text = f"a: '{many}'\nb: \"{many}\"\nc: x{many}\n# {many}\nd: |\n  {many}\n"
    assert parsing.load(text) == {"a": many, "b": many, "c": f"x{many}", "d": f"{many}\n"}


@pytest.mark.parametrize(
    "text", ["&a [*a]", "[*b]", "x: &x [1]\n" + "".join(f"{k}: &{k} [*{j}, *{j}]\n" for j, k in zip("x" + "abcdefghijklmnopqrst", "abcdefghijklmnopqrstu", strict=True))]
)  # fmt: skip
def test_aliases_have_limits(text: str, parser: Any) -> None:
    with pytest.raises(parsing.TooMuch):
        parsing.load(text)


@pytest.mark.parametrize(
    "text", ["!!int ''", "!!bool x", "!!float x", "!!timestamp x", "a: 2024-99-99", "[a]: 1\n{b: c}: 2"]
)
def test_values_that_can_not_be_read_are_an_error_of_yaml(text: str, parser: Any) -> None:
    with pytest.raises(yaml.YAMLError):
        parsing.load(text)


# -- what else is read of people's YAML ------------------------------------------------------------

BOMB = "x: &x [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '*x'] * 10)}]\n" for n in range(9))
HOSTILE = {"deep": ("a: " + "[" * 3000, "deeper than"), "bomb": (BOMB, "expands to"), "self": ("a: &a [*a]", "itself")}


@pytest.mark.parametrize("name", HOSTILE)
def test_answers_for_autoinstall(name: str) -> None:
    text, words = HOSTILE[name]
    began = time.process_time()
    (problem,) = check(Answers.AUTOINSTALL, f"autoinstall:\n  version: 1\n{text}", "user-data")
    assert words in problem.message
    assert problem.line >= 3
    assert problem.hint
    with pytest.raises(BadInput):
        compose(Answers.AUTOINSTALL, text, Additions("ssh-ed25519 AAAA a", "done", "ttyS0"))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", HOSTILE)
def test_block_devices(name: str) -> None:
    text, words = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(RecipeError, match=words) as caught:
        blockdevice.without_device_mapper(text)
    assert caught.value.hint
    assert time.process_time() - began < 5


def test_a_value_of_block_devices_that_can_not_be_read() -> None:
    with pytest.raises(RecipeError, match="is not YAML"):
        blockdevice.without_device_mapper("- partitioning: !!int ''")
