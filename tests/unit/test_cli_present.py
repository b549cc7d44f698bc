"""How values look to people and to scripts."""

from __future__ import annotations

import argparse
import time

import pytest

from imageflow.cli import present
from imageflow.cli.recipes import pinned_lines, setting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1:00"),
        (187, "3:07"),
        (3599.9, "1:00:00"),
        (3731, "1:02:11"),
        (183600, "2 d 3 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert present.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (-3, "just now"), (40, "40 s ago"), (300, "5 min ago"), (7200, "2 h ago"), (864000, "10 d ago")],
)
def test_ago(seconds: float, text: str) -> None:
    assert present.ago(1_000_000_000 - seconds, 1_000_000_000) == text


def test_what_is_long_ago_is_a_date() -> None:
    assert present.ago(0.0, 1_000_000_000.0) == time.strftime("%Y-%m-%d", time.localtime(0))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (244318208, "233 MiB"),
        (4 << 30, "4.0 GiB"),
        (1023 << 20, "1.0 GiB"),
    ],
)
def test_size(count: int | None, text: str) -> None:
    assert present.size(count) == text


def test_columns_are_short_for_people_and_raw_for_scripts() -> None:
    digest = "0123456789abcdef" * 4
    assert present.Digest(digest).human_readable() == "0123456789ab"
    assert present.Digest(digest).machine_readable() == digest
    assert present.Age(0.0).machine_readable() == "1970-01-01T00:00:00Z"
    assert present.Age(None).machine_readable() is None
    assert present.Took(12.34567).machine_readable() == 12.346
    assert present.Optional(None).human_readable() == ""
    assert present.Optional(None).machine_readable() is None
    assert present.Size(2048).machine_readable() == 2048
    long = "x" * 61
    assert present.Clipped(long).human_readable() == "x" * 59 + "…"
    assert present.Clipped(long).machine_readable() == long


def test_every_state_has_its_mark() -> None:
    from imageflow.model import BuildState, StepState

    assert {state for state in (*BuildState, *StepState) if present.mark(state) == "?"} == set()


@pytest.mark.parametrize("text", ["publish.keep=3", " publish.keep =3"])
def test_a_setting(text: str) -> None:
    assert setting(text) == ("publish.keep", "3")


def test_a_setting_may_hold_an_equals_sign() -> None:
    assert setting("dib.environment.DIB_X=a=b") == ("dib.environment.DIB_X", "a=b")


@pytest.mark.parametrize("text", ["", "=", "=x", "publish.keep"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="KEY=VALUE"):
        setting(text)


def test_pins_are_grouped_by_kind() -> None:
    lines = list(pinned_lines({"tool:x": "1", "element:vm": "f" * 64, "element:base": "e" * 64, "imageflow": "0.1"}))
    assert [line.split() for line in lines] == [
        ["element", "base", "e" * 12],
        ["vm", "f" * 12],
        ["imageflow", "0.1"],
        ["tool", "x", "1"],
    ]
    assert list(pinned_lines({})) == []


def test_a_state_says_that_nobody_works_on_it_only_to_people() -> None:
    quiet = present.Silent("running", "conductor a: not heard of for 40 s")
    assert quiet.human_readable() == "running (conductor a: not heard of for 40 s)"
    assert quiet.machine_readable() == "running" == present.Silent("running", None).human_readable()
