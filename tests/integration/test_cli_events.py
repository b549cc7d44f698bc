"""`imageflow event …` with input that is none."""

from __future__ import annotations

import signal
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


def test_a_terminal_that_goes_away_drains_what_serves(tmp_path: Path) -> None:
    """Unless it was told to outlive it, as nohup does."""
    program = Program(tmp_path / "state")
    # said for both: who runs the tests may have been started by nohup
    serving = program.start("serve", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    ignoring = program.start("serve", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        for one in (serving, ignoring):
            assert one.stderr is not None
            assert any(" serves, " in line for line in one.stderr)
            one.send_signal(signal.SIGHUP)
        _out, err = serving.communicate(timeout=60)
        assert serving.returncode == 0 and "has stopped" in err
        assert ignoring.poll() is None
        ignoring.terminate()
        assert ignoring.wait(60) == 0
    finally:
        for one in (serving, ignoring):
            one.kill()
            one.communicate()
