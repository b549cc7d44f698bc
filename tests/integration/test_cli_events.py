"""`imageflow event …`: input that is none, and the token for events over HTTP."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import requests

from tests.small.program import Program


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


def test_the_token_for_events_over_http_is_printed_and_the_server_takes_it(tmp_path: Path) -> None:
    program = Program(tmp_path / "state")
    found = program.json("event", "token")
    assert found["place"] == str(tmp_path / "state" / "events-token")
    assert program.run("event", "token").stdout == found["token"] + "\n"
    serving = program.start("serve", "--listen", "127.0.0.1:0")
    try:
        assert serving.stderr is not None
        said = [next(line for line in serving.stderr if word in line) for word in ("event token", "listener http: ")]
        assert found["place"] in said[0] and found["token"] not in said[0]
        event = json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "t"})
        url, kind = said[1].rpartition("listener http: ")[2].strip(), "application/cloudevents+json"
        for authorization, status in (("", 401), (f"Bearer {found['token']}", 202)):
            headers = {"content-type": kind, "authorization": authorization}
            assert requests.post(f"{url}/v1/events", data=event, headers=headers, timeout=30).status_code == status
    finally:
        serving.kill()
        serving.communicate()
    (tmp_path / "state" / "events-token").chmod(0o644)
    for words in (("event", "token"), ("serve", "--listen", "127.0.0.1:0")):
        assert "chmod 600" in program.run(*words, expect=2).stderr


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
