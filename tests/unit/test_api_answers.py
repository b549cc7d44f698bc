"""What the API answers with: entity tags that stand for a state, and files that are closed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.responses import Response

from imageflow.api.problems import RequestProblem
from imageflow.api.v1 import ranges
from imageflow.api.v1.asking import require_match, tagged
from imageflow.api.v1.records import BuildDocument
from imageflow.model import Build, BuildState


def document(
    state: BuildState = BuildState.RUNNING,
    silent: str | None = None,
    waits: str | None = None,
    remaining: float | None = None,
) -> BuildDocument:
    build = Build("0123456789ab", "web", "dib", state, "new", "0" * 64, "f", 1.5)
    return BuildDocument.whole(build, silent, waits, remaining)


def tag(*said: Any) -> str:
    return tagged(document(*said), None).headers["etag"]


def test_what_changes_by_itself_is_no_other_state() -> None:
    """How long a build still takes, and for how long its conductor is silent, go on while nothing happens."""
    state = BuildState.RUNNING
    assert tag(state, None, None, 12.0) == tag(state, None, None, 11.0) == tag(state)
    assert tag(state, "x, for 40 s", "x, for 40 s; y") == tag(state, "x, for 41 s", "x, for 41 s; y")
    assert len({tag(state), tag(state, "x"), tag(state, None, "room"), tag(BuildState.PAUSED)}) == 4
    require_match(document(remaining=1.0), tag(state, None, None, 2.0))
    with pytest.raises(RequestProblem):
        require_match(document(BuildState.PAUSED), tag(state))


def test_an_answer_with_a_tag_says_everything() -> None:
    answer: Response = tagged(document(remaining=12.0), None)
    assert b'"remaining":12.0' in bytes(answer.body)


def test_an_answer_that_is_not_sent_closes_its_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a line\n" * 100)
    for wanted in (None, "bytes=5-9", "bytes=9999-"):
        for _ in range(50):
            ranges.answer(log, wanted)
    gc.collect()
    assert not [one for one in psutil.Process().open_files() if one.path == str(log)]
