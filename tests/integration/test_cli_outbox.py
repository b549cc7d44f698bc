"""`imageflow serve` tells a real consumer what builds do; `imageflow outbox` shows it and sends dead letters again."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.model import BuildState
from tests.integration.consumer import Consumer, about
from tests.integration.test_announce import SECRET, kinds
from tests.integration.test_cli_builds import Small


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    made = Consumer(SECRET)
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, consumer: Consumer) -> Iterator[Small]:
    options = {"targets": "http", "http_url": consumer.url, "http_secret": SECRET, "max_wait": "0.2"}
    told = {f"announce__{name}": value for name, value in options.items()}
    with Small(tmp_path, lease=8, api__listen="127.0.0.1:0", announce__cdevents="false", **told) as site:
        yield site


@contextlib.contextmanager
def serving(site: Small) -> Iterator[subprocess.Popen[str]]:
    with (site.folder / "serve.log").open("a") as log:
        process = site.program.start("serve", stdout=log, stderr=log)
    try:
        yield process
        process.terminate()
        assert process.wait(30) == 0, (site.folder / "serve.log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def rows(site: Small, *words: str) -> list[dict[str, Any]]:
    return list(site.program.json("outbox", "list", *words))


def test_a_build_is_told_from_its_start_to_its_version(site: Small, consumer: Consumer) -> None:
    with serving(site):
        build = site.build()
        site.await_state(build, BuildState.SUCCEEDED)
        got = consumer.wait(3)
    assert kinds(got, build.id) == ("start", "end", "publish")
    ended, published = got[1]["data"], got[2]["data"]
    assert (ended["state"], ended["digest"]) == ("succeeded", published["digest"])
    assert ended["duration"] > 0
    assert published["name"] == "small"


def test_a_build_that_pauses_and_is_resumed_is_told_so(site: Small, consumer: Consumer) -> None:
    with serving(site):
        site.trace.set("fail-configure")
        build = site.build()
        site.await_state(build, BuildState.PAUSED)
        (paused,) = [one for one in consumer.wait(2) if one["type"] == "imageflow.build.pause"]
        assert (paused["data"]["step"], paused["data"]["state"]) == ("configure", "paused")
        assert paused["data"]["error"]
        site.trace.unset("fail-configure")
        site.program.run("build", "resume", build.id)
        site.await_state(build, BuildState.SUCCEEDED)
        consumer.wait(len(("start", "pause", "resume", "end", "publish")))
        end = time.monotonic() + 5
        while kinds(consumer.got, build.id)[-1] != "publish":
            assert time.monotonic() < end, kinds(consumer.got, build.id)
            time.sleep(0.05)
    told = [kind for kind in kinds(consumer.got, build.id) if kind != "start"]
    assert told == ["pause", "resume", "end", "publish"]


def test_dead_letters_are_listed_and_replayed(site: Small, consumer: Consumer) -> None:
    consumer.behave = lambda event: 400 if event["type"] == "imageflow.build.end" else 200
    with serving(site):
        build = site.build()
        site.await_that(lambda: site.service.outbox.deliveries(dead=True))
        consumer.wait(2)
        (dead,) = rows(site, "--dead")
        assert (dead["type"], dead["build"], dead["target"]) == ("imageflow.build.end", build.id, "http")
        assert dead["attempts"] == 8
        assert "400" in dead["error"]
        assert len(rows(site, "--target", "http")) == 3
        assert rows(site, "--target", "amqp") == []
        text = site.program.run("outbox", "list").stdout
        assert "imageflow.image.publish" in text
        assert SECRET not in text
        consumer.behave = lambda event: 200
        assert site.program.json("outbox", "replay", "--dead", "--target", "amqp") == {"replayed": 0}
        assert site.program.json("outbox", "replay", "--dead") == {"replayed": 1}
        got = consumer.wait(3)
        assert (got[-1]["id"], about(got[-1])) == (dead["id"], build.id)
        site.await_that(lambda: rows(site, "--dead") == [])
        assert site.program.json("outbox", "replay", dead["id"][:8]) == {"replayed": 1}
        assert consumer.wait(4)[-1]["id"] == dead["id"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--dead is needed"),
        (("abcd1234", "--dead"), "--dead is needed"),
        (("abcd1234",), "there is no announcement"),
        (("x",), "there is no announcement"),
    ],
)
def test_what_can_not_be_replayed_is_said(site: Small, words: tuple[str, ...], said: str) -> None:
    done = site.program.run("outbox", "replay", *words, expect=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_list_is_said(site: Small) -> None:
    assert "no announcements" in site.program.run("outbox", "list").stderr
    assert "no dead letters" in site.program.run("outbox", "list", "--dead").stderr


def test_a_target_that_can_not_work_ends_the_service_with_its_option(tmp_path: Path) -> None:
    with Small(tmp_path, listeners__enabled="schedule", announce__targets="http") as site:
        done = site.program.run("serve", expect=2, seconds=60)
    assert "[announce] http_url is not set" in done.stderr
    assert "Traceback" not in done.stderr
