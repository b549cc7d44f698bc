"""The slices of the long tests: ten changes run all of them, whatever their number is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import slices

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("of", range(1, slices.CHANGES + 1))
@pytest.mark.parametrize("first", [0, 7, 435])
def test_any_ten_changes_one_after_the_other_run_every_place(of: int, first: int) -> None:
    for places in range(1, 60):
        parts = [slices.chosen(places, of, number) for number in range(first, first + slices.CHANGES)]
        ran = Counter(place for part in parts for place in part)
        assert ran.keys() == set(range(places))
        assert min(map(len, parts)) >= max(1, places // of), "each runs one at least, and its share"
        assert max(map(len, parts)) <= -(-places // min(of, places))


def test_what_is_cut_finer_takes_so_many_changes() -> None:
    assert [[*slices.chosen(71, 100, number)] for number in range(500, 571)] == [
        [number % 71] for number in range(500, 571)
    ]


def test_servers_take_turns() -> None:
    assert {slices.server(number) for number in (434, 435)} == set(slices.SERVERS)


def collected(number: str, *arguments: str) -> tuple[list[str], str]:
    """The tests that pytest chooses, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, slices.VARIABLE: number, "PYTEST_ADDOPTS": "-o addopts=--import-mode=importlib"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return [line for line in done.stdout.splitlines() if line.lstrip().startswith("<Function")], done.stdout


CRASHES = "tests/flows/test_crash_everywhere.py"
RACES = "tests/flows/test_races.py"


def test_a_run_takes_its_slice_and_says_how_to_repeat_it() -> None:
    found, said = collected("23", "-m", "not slow", CRASHES)
    assert len(found) == 4 and all("[3]" in line for line in found), said
    assert said.index("slice 23: ") < said.index("rootdir")
    assert f"IMAGEFLOW_SLICE=23 python -m pytest --collect-only -p no:cacheprovider -m 'not slow' {CRASHES}\n" in said


def test_a_test_that_is_named_and_everything_that_is_wanted_run() -> None:
    name = f"{CRASHES}::test_before_every_commit_of_a_build"
    assert len(collected("23", "-m", "not slow", name)[0]) == 10
    found, said = collected("all", "-m", "not slow", CRASHES, RACES)
    assert "slice: all of them" in said
    assert any("mariadb" in line for line in found) and any("postgresql" in line for line in found)
    assert sum("every_commit" in line for line in found) == 40


@pytest.mark.parametrize(("number", "other"), [("0", "mariadb"), ("1", "postgresql")])
def test_flows_go_through_sqlite_and_one_server(number: str, other: str) -> None:
    found, _ = collected(number, "-m", "not slow", RACES, "tests/drivers/test_outbox.py")
    inside = [line for line in found if f"-{other}" in line or f"[{other}" in line]
    assert any("sqlite" in line for line in found)
    assert not any("test_a_request_whose_answer" in line for line in inside)
    assert any("test_dead_letters" in line for line in inside), "what is about SQL goes through all of them"


def test_a_number_that_is_none_is_refused() -> None:
    _, said = collected("tuesday", CRASHES)
    assert "test session starts" not in said


def test_without_a_history_the_day_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C"]
    subprocess.run(["git", "init", "-q", str(origin)], check=True)
    for number in range(3):
        subprocess.run([*git, str(origin), "commit", "-q", "--allow-empty", "-m", str(number)], check=True)
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{origin}", str(copy)], check=True)
    for root, wanted in ((origin, 3), (copy, None), (tmp_path, None)):
        monkeypatch.setattr(slices, "ROOT", root)
        assert slices._commits() == wanted
