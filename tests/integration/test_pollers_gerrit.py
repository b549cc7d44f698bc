"""Gerrit's stream with a real SSH server: what is said, what is missed, what goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from imageflow.background.flag import Flag
from imageflow.errors import ConfigError
from imageflow.listeners import Surroundings
from imageflow.listeners.gerrit import GerritListener
from imageflow.model import Verdict
from tests.servers.gerrit import Gerrit
from tests.small.polled import Site, images, until

A, B = "a" * 40, "b" * 40


@pytest.fixture
def gerrit(tmp_path: Path) -> Iterator[Gerrit]:
    server = Gerrit(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def site(tmp_path: Path, gerrit: Gerrit) -> Site:
    return made(tmp_path / "site", gerrit)


def made(folder: Path, gerrit: Gerrit, user: str = Gerrit.user, key: Path | None = None) -> Site:
    settings = f"[gerrit]\nhost = 127.0.0.1\nport = {gerrit.port}\nuser = {user}\nkey = {key or gerrit.key}"
    return Site(folder, settings=f"{settings}\nknown_hosts = {gerrit.known_hosts}")


def quick(around: Surroundings) -> GerritListener:
    return GerritListener(around, pause=(0.05, 0.2))


def merged(site: Site) -> list[str]:
    return [str(event.data["change"]) for event in site.events("git.merge")]


def test_what_the_stream_says(site: Site, gerrit: Gerrit) -> None:
    update = {"oldRev": A, "newRev": B, "refName": "refs/heads/main", "project": "acme/infra"}
    site.register(images(web="{event: git.merge, where: {repository: infra, owner: acme, branch: main}}"))
    with site.running(quick):
        gerrit.say({"type": "ref-updated", "refUpdate": update, "eventCreatedOn": int(time.time())})
        gerrit.merge(7)
        gerrit.say({"type": "comment-added", "comment": "nice"})
        until(lambda: len(site.events()) == 3)
    assert [event.type for event in site.events()] == ["git.push", "git.merge", "gerrit.comment-added"]
    assert {event.listener for event in site.events()} == {"gerrit"}
    assert site.events("git.push")[0].source == "gerrit:acme/infra"
    assert [site.asked_for(event) for event in site.events()] == [[], ["web"], []]
    assert gerrit.logins == 1


def test_rubbish_goes_to_quarantine_and_the_rest_goes_on(site: Site, gerrit: Gerrit) -> None:
    with site.running(quick):
        gerrit.say(b"rubbish\n", b"[1]\n", b"\n", b'{"type": "x", "big": "' + b"x" * (3 << 20) + b'"}\n')
        gerrit.merge(7)
        until(lambda: merged(site))
    bad = site.events("imageflow.unreadable")
    assert [event.verdict for event in bad] == [Verdict.QUARANTINED] * 3
    assert [str(event.reason) for event in bad] == [
        "the line is not JSON",
        "the line is not a JSON object",
        "the line has more than 1 MiB",
    ]


def test_the_first_time_nothing_is_caught_up_with(site: Site, gerrit: Gerrit) -> None:
    gerrit.merge(1)
    with site.running(quick):
        gerrit.merge(2)
        until(lambda: merged(site))
    assert merged(site) == ["2"]
    assert gerrit.commands == ["gerrit stream-events"]


def test_merges_while_we_are_away_are_made_up_for_once(site: Site, gerrit: Gerrit) -> None:
    with site.running(quick):
        gerrit.merge(1)
        until(lambda: merged(site))
    gerrit.merge(90, moment=time.time() - 86400)
    gerrit.changes[0]["lastUpdated"] = int(time.time())  # merged yesterday, spoken about now
    for number in range(2, 452):  # three pages
        gerrit.merge(number, said=False)
    with site.running(quick):
        until(lambda: len(merged(site)) == 451)
    with site.running(quick):
        gerrit.merge(452)
        until(lambda: "452" in merged(site))
    assert sorted(map(int, merged(site))) == list(range(1, 453))
    assert merged(site)[1] == "2", "the oldest one first"
    assert sum("--start 400" in command for command in gerrit.commands) == 2


def test_a_connection_that_ends_in_the_middle_of_a_line(site: Site, gerrit: Gerrit) -> None:
    with site.running(quick):
        gerrit.merge(1)
        until(lambda: merged(site))
        gerrit.say(b'{"type": "change-merged", "change": {"project": "acme/in')
        gerrit.merge(2, said=False)
        gerrit.cut()
        until(lambda: "2" in merged(site))
        until(lambda: gerrit.listening)
        gerrit.merge(3)
        until(lambda: "3" in merged(site))
    assert merged(site) == ["1", "2", "3"]
    assert site.events("imageflow.unreadable") == []


def test_the_same_lines_again_are_the_same_events(site: Site, gerrit: Gerrit) -> None:
    update = {"oldRev": A, "newRev": B, "refName": "refs/heads/main", "project": "infra"}
    now = int(time.time())
    with site.running(quick), site.running(quick):
        until(lambda: gerrit.listening == 2)
        for _ in range(3):
            gerrit.say({"type": "ref-updated", "refUpdate": update, "eventCreatedOn": now})
            gerrit.say({"type": "reviewer-added", "eventCreatedOn": now})
            gerrit.merge(1)
        gerrit.merge(2)
        until(lambda: merged(site)[-1:] == ["2"] and site.events()[-1].deliveries == 2)
    assert sorted(event.type for event in site.events()) == [
        "gerrit.reviewer-added",
        "git.merge",
        "git.merge",
        "git.push",
    ]


def test_a_server_that_is_away_for_a_while(site: Site, gerrit: Gerrit, caplog: pytest.LogCaptureFixture) -> None:
    with site.running(quick):
        gerrit.stop()
        until(lambda: "can't be reached" in caplog.text)
        gerrit.merge(1, said=False)
        time.sleep(0.5)
        gerrit.start()
        until(lambda: merged(site) == ["1"])
    assert caplog.text.count("can't be reached") == 1


def test_a_query_that_is_refused_does_not_stop_the_stream(
    site: Site, gerrit: Gerrit, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running(quick):
        pass
    gerrit.refused = "Unsupported operator since"
    with site.running(quick):
        gerrit.merge(1)
        until(lambda: merged(site))
    assert "Unsupported operator since" in caplog.text


def _run(around: Surroundings, stop: Flag) -> None:
    GerritListener(around, pause=(0.05, 0.2)).run(stop)


@pytest.mark.parametrize("wrong", ["user", "key", "host key", "no host key", "permission"])
def test_what_an_operator_has_to_mend_is_said_and_tried_again(
    tmp_path: Path, gerrit: Gerrit, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    user, key, said = Gerrit.user, None, ""
    if wrong == "user":
        user, said = "nobody", "does not let nobody in"
    elif wrong == "key":
        key, said = tmp_path / "other", "does not let imageflow in"
        paramiko.ECDSAKey.generate().write_private_key_file(str(key))
    elif wrong == "host key":
        gerrit.known(paramiko.ECDSAKey.generate())
        said = "shows a different host key"
    elif wrong == "no host key":
        gerrit.known_hosts.write_text("")
        said = "is not known"
    else:
        gerrit.permitted = False
        said = "not permitted"
    site = made(tmp_path / "site", gerrit, user, key)
    import threading

    stop = Flag()
    thread = threading.Thread(target=_run, args=(site.around(), stop))
    thread.start()
    try:
        until(lambda: said in caplog.text)
        if wrong == "no host key":
            gerrit.known(gerrit.host_key)  # mended while it runs
            until(lambda: gerrit.listening)
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert caplog.text.count(said) == 1
    assert "PRIVATE" not in caplog.text


@pytest.mark.parametrize("option", ["host", "user", "key", "known_hosts"])
def test_what_can_not_work_ends_it(tmp_path: Path, option: str) -> None:
    options = {"host": "127.0.0.1", "user": "x"}
    if option in options:
        del options[option]
    else:
        options[option] = str(tmp_path / "nothing")
    site = Site(tmp_path, settings="[gerrit]\n" + "\n".join(f"{key} = {value}" for key, value in options.items()))
    with pytest.raises(ConfigError, match=option):
        GerritListener(site.around()).run(Flag())


def _listen(folder: str, gerrit_port: int, user: str, key: str, known_hosts: str) -> None:
    settings = (
        f"[gerrit]\nhost = 127.0.0.1\nport = {gerrit_port}\nuser = {user}\nkey = {key}\nknown_hosts = {known_hosts}"
    )
    site = Site(Path(folder), settings=settings)
    GerritListener(site.around(), pause=(0.05, 0.2)).run(Flag())


@pytest.mark.timeout(240)
def test_killed_at_any_moment_no_merge_is_lost_and_none_comes_twice(site: Site, gerrit: Gerrit) -> None:
    with site.running(quick):
        pass
    spawn = multiprocessing.get_context("spawn")
    arguments = (str(site.folder), gerrit.port, gerrit.user, str(gerrit.key), str(gerrit.known_hosts))
    number = 0
    for round in range(5):
        process = spawn.Process(target=_listen, args=arguments)
        process.start()
        until(lambda: gerrit.listening, 60)
        end = time.monotonic() + 0.05 + 0.1 * round
        while time.monotonic() < end:
            number += 1
            gerrit.merge(number)
            time.sleep(0.002)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        gerrit.cut()
        number += 1
        gerrit.merge(number)
    with site.running(quick):
        until(lambda: len(merged(site)) == number)
    assert sorted(map(int, merged(site))) == list(range(1, number + 1))
