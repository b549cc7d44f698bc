"""`imageflow event …` with input that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_program import Program


@pytest.mark.parametrize(
    "words",
    [
        ("send", "nothing.json"),
        ("send", "/"),
        ("simulate", "nothing.json"),
        ("send", "--type", "x", "--id", ""),
        ("send", "--type", "x", "--source", "imageflow:schedule"),
    ],
)
def test_what_is_no_event_is_bad_input_and_changes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    program = Program(tmp_path / "state")
    done = program.run("event", *words, expect=2)
    assert done.stderr.startswith("imageflow: ") and "Traceback" not in done.stderr
    assert program.json("event", "list") == []
