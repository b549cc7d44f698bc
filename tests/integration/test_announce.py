"""Announcements reach a consumer that is away, slow, broken or gone again: at least once, in order per build."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imageflow import announce, config
from imageflow.announce.sender import Sender
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.model import Build, BuildState, Delivery
from imageflow.persistence import outbox, schema
from imageflow.persistence.database import Database
from tests.integration.consumer import Consumer, about

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cw=="
LIFE = ("start", "pause", "resume", "pause", "resume", "end")


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    made = Consumer(SECRET)
    yield made
    made.stop()


@dataclass
class Site:
    """One database, and what is configured over it."""

    folder: Path
    database: Database
    url: str

    def configure(self, **options: Any) -> Config:
        """The configuration; of [announce] what is given, and times that suit tests."""
        given = {"targets": "http", "max_wait": 0.3, "timeout": 5.0, "http_secret": SECRET, "cdevents": False} | options
        lines = [f"[DEFAULT]\nstate_dir = {self.folder}\nhost = h1\n[database]\nconnection = {self.url}\n[announce]"]
        lines += [f"{name} = {value}" for name, value in given.items()]
        self.file.write_text("\n".join(lines))
        return config.load([str(self.file)])

    @property
    def file(self) -> Path:
        return self.folder / "imageflow.conf"

    def tell(self, *what: str, builds: int = 1, targets: tuple[str, ...] = ("http",)) -> list[str]:
        """Announce a life of so many builds, mixed; -> their ids."""
        ids = [uuid.uuid4().hex[:12] for _ in range(builds)]
        for one in what or LIFE:
            for id in ids:
                build = Build(id, "web", "dib", BuildState.RUNNING, "new", id * 5, "f", 1.0)
                self.database.transact(lambda conn, b=build, w=one: outbox.announce_build(conn, targets, w, b))  # type: ignore[misc]
        return ids

    def deliveries(self, **how: Any) -> list[Delivery]:
        with self.database.read() as conn:
            return outbox.select(conn, **how)

    def settled(self, seconds: float = 30.0) -> list[Delivery]:
        """Wait until nothing waits any more; -> all deliveries, the oldest first."""
        end = time.monotonic() + seconds
        while any(one.state == "waiting" for one in self.deliveries()):
            assert time.monotonic() < end, [one.error for one in self.deliveries(states=["waiting"])]
            time.sleep(0.02)
        return self.deliveries()[::-1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Database(f"sqlite:///{tmp_path}/imageflow.db") as database:
        schema.upgrade(database)
        yield Site(tmp_path, database, str(database.url))


@contextlib.contextmanager
def sending(site: Site, loaded: Config) -> Iterator[list[Sender]]:
    """Senders at work in threads of this process."""
    stop = Flag()
    found = [Sender(site.database, loaded, target, announce.load(target)(loaded)) for target in loaded.announce.targets]
    threads = [threading.Thread(target=one.run, args=(stop,)) for one in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def kinds(events: list[dict[str, Any]], build: str) -> tuple[str, ...]:
    """What came of a build, each once, in the order it came first."""
    mine = {one["id"]: one["type"].rpartition(".")[2] for one in events if about(one) == build}
    return tuple(mine.values())


def test_every_announcement_comes_once_signed_and_in_order(site: Site, consumer: Consumer) -> None:
    with sending(site, site.configure(http_url=consumer.url)) as (sender,):
        builds = site.tell(builds=5)
        sender.wake()
        got = consumer.wait(30)
        found = site.settled()
    assert consumer.forged == 0
    assert len({one["id"] for one in got}) == len(got) == 30
    assert [kinds(got, build) for build in builds] == [LIFE] * 5
    assert {one["id"] for one in got} == {one.announcement.id for one in found}
    assert {(one.state, one.attempts, one.error) for one in found} == {("sent", 1, None)}
    assert {(one["source"], one["subject"], one["dataschema"]) for one in got} == {
        ("//h1/imageflow", "web", "urn:imageflow:BuildPayload:1.0")
    }


def test_cdevents_come_right_after_what_they_say_in_other_words(site: Site, consumer: Consumer) -> None:
    with sending(site, site.configure(http_url=consumer.url, cdevents=True)):
        site.tell("start", "pause", "end")
        got = consumer.wait(5)
    assert [one["type"] for one in got] == [
        "imageflow.build.start",
        "dev.cdevents.build.started.0.2.0",
        "imageflow.build.pause",
        "imageflow.build.end",
        "dev.cdevents.build.finished.0.2.0",
    ]


def test_a_consumer_that_was_away_gets_everything_once_it_is_back(site: Site, consumer: Consumer) -> None:
    consumer.stop()
    with sending(site, site.configure(http_url=consumer.url)):
        builds = site.tell(builds=8)
        end = time.monotonic() + 20
        while not any(one.error for one in site.deliveries()):
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(1.0)  # several tries
        assert {(one.state, one.attempts) for one in site.deliveries()} == {("waiting", 0)}
        assert {one.error for one in site.deliveries()} <= {
            None,
            f"http://127.0.0.1:{consumer.url.split(':')[2].split('/')[0]} does not answer: Connection refused",
        }
        consumer.start()
        got = consumer.wait(48)
        found = site.settled()
    assert len({one["id"] for one in got}) == len(got) == 48
    assert [kinds(got, build) for build in builds] == [LIFE] * 8
    assert {(one.state, one.attempts) for one in found} == {("sent", 1)}


def test_a_consumer_that_goes_away_in_the_middle_again_and_again(site: Site, consumer: Consumer) -> None:
    with sending(site, site.configure(http_url=consumer.url)):
        builds = site.tell(builds=10)
        for number in (5, 15, 30):
            consumer.wait(number)
            consumer.stop()
            time.sleep(0.2)
            consumer.start()
        consumer.wait(60)
        site.settled()
    assert [kinds(consumer.got, build) for build in builds] == [LIFE] * 10
    assert consumer.forged == 0


@pytest.mark.parametrize("trouble", [500, "hang", "reset"])
def test_what_it_stumbles_over_is_tried_again_and_others_pass_by(
    site: Site, consumer: Consumer, trouble: int | str
) -> None:
    left = {"n": 3}
    poisoned = site.tell("start", "end")[0]

    def behave(event: dict[str, Any]) -> int | str:
        if about(event) == poisoned and event["type"].endswith("start") and left["n"]:
            left["n"] -= 1
            return trouble
        return 200

    consumer.behave = behave
    with sending(site, site.configure(http_url=consumer.url, timeout=1.5, max_wait=1.5)):
        others = site.tell("start", "end", builds=3)
        got = consumer.wait(8)
        found = site.settled()
    assert kinds(got, poisoned) == ("start", "end")
    assert [kinds(got, other) for other in others] == [("start", "end")] * 3
    assert len(got) == 8
    assert sorted(one.attempts for one in found) == [1] * 7 + [4]
    order = [about(one) for one in got]
    assert order.index(others[0]) < order.index(poisoned), "others did not wait for it"


@pytest.mark.parametrize("status", [400, 308])
def test_what_is_refused_goes_to_the_dead_letters_and_comes_when_replayed(
    site: Site, consumer: Consumer, status: int
) -> None:
    bad = site.tell("start", "end")[0]
    consumer.behave = lambda event: status if event["type"].endswith("start") and about(event) == bad else 200
    with sending(site, site.configure(http_url=consumer.url)):
        site.tell("start")
        got = consumer.wait(2)
        found = site.settled()
        assert {kinds(got, bad)} == {("end",)}
        (dead,) = [one for one in found if one.state == "dead"]
        assert dead.error is not None
        assert (dead.attempts, str(status) in dead.error) == (8, True)
        assert "in-the-url" not in dead.error
        assert len([one for one in consumer.seen if one["id"] == dead.announcement.id]) == 8
        consumer.behave = lambda event: 200
        with site.database.begin() as conn:
            assert outbox.replay(conn) == 1
        consumer.wait(3)
        assert {one.state for one in site.settled()} == {"sent"}
    assert consumer.got[-1]["id"] == dead.announcement.id


@pytest.mark.parametrize("status", [429, 503])
def test_a_consumer_that_asks_for_patience_gets_it(site: Site, consumer: Consumer, status: int) -> None:
    left = {"n": 12}

    def behave(event: dict[str, Any]) -> int:
        left["n"] -= 1
        return status if left["n"] > 0 else 200

    consumer.behave = behave
    with sending(site, site.configure(http_url=consumer.url, max_wait=0.1)):
        site.tell("start", "end", builds=2)
        consumer.wait(4)
        assert {(one.state, one.attempts) for one in site.settled()} == {("sent", 1)}, "it never counts against one"


def test_a_consumer_whose_certificate_nobody_vouches_for_gets_nothing(site: Site, consumer: Consumer) -> None:
    key, certificate = site.folder / "key.pem", site.folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    consumer.stop()
    consumer.certificate = (certificate, key)
    consumer.start()
    with sending(site, site.configure(http_url=consumer.url.replace("http:", "https:"))):
        site.tell("start")
        end = time.monotonic() + 20
        while (error := site.deliveries()[0].error) is None:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert "TLS" in error
    assert "certificate" in error
    assert consumer.seen == []


def test_what_can_not_be_sent_in_time_is_a_dead_letter(site: Site, consumer: Consumer) -> None:
    consumer.stop()
    with sending(site, site.configure(http_url=consumer.url, give_up=1.0)):
        site.tell("start", "end")
        found = site.settled()
    assert [one.state for one in found] == ["dead", "dead"]
    assert found[0].error is not None and "refused" in found[0].error


def test_a_new_announcement_goes_out_at_once(site: Site, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageflow.announce.sender.POLL", 60.0)
    with sending(site, site.configure(http_url=consumer.url)) as (sender,):
        for number in range(1, 6):
            site.tell("start")
            sender.wake()
            consumer.wait(number)  # less than a poll


def spawn(site: Site, lease: float = 1.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.announce_process", str(site.file), str(lease)]
    with (site.folder / "sender.log").open("ab") as log:
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=log, stderr=log)


@contextlib.contextmanager
def processes(site: Site, number: int, lease: float = 60.0) -> Iterator[list[subprocess.Popen[bytes]]]:
    found = [spawn(site, lease) for _ in range(number)]
    try:
        yield found
    finally:
        for one in found:
            one.kill()
            one.wait()


def test_killed_between_sending_and_its_record_it_comes_again_with_the_same_id(site: Site, consumer: Consumer) -> None:
    site.configure(http_url=consumer.url)
    builds = site.tell(builds=4)
    running: list[subprocess.Popen[bytes]] = []
    kills: list[str] = []

    def behave(event: dict[str, Any]) -> int:
        if len(kills) < 5 and len(consumer.got) >= 4 * len(kills):
            kills.append(event["id"])  # it has arrived; its sender never gets to hear that
            running[-1].send_signal(signal.SIGKILL)
        return 200

    consumer.behave = behave
    try:
        while len(kills) < 5:
            running.append(spawn(site))
            running[-1].wait(60)
            assert running[-1].returncode == -signal.SIGKILL, (site.folder / "sender.log").read_text()[-2000:]
        running.append(spawn(site))
        found = site.settled(60)
    finally:
        for one in running:
            one.kill()
            one.wait()
    came = [one["id"] for one in consumer.got]
    assert {one.state for one in found} == {"sent"}
    assert set(came) == {one.announcement.id for one in found}
    assert {id for id in came if came.count(id) > 1} == set(kills)
    assert [kinds(consumer.got, build) for build in builds] == [LIFE] * 4


def test_two_processes_on_one_database_send_each_once(tmp_path: Path, consumer: Consumer, database_url: str) -> None:
    with Database(database_url) as database:
        schema.upgrade(database)
        site = Site(tmp_path, database, database_url)
        site.configure(http_url=consumer.url)
        with processes(site, 2):
            builds = site.tell(builds=20)
            got = consumer.wait(120, 90)
            site.settled()
    assert len({one["id"] for one in got}) == len(got) == len(consumer.got) == 120
    assert [kinds(got, build) for build in builds] == [LIFE] * 20


def test_the_database_goes_away_and_comes_back(consumer: Consumer, tmp_path: Path, postgresql: Any) -> None:
    with postgresql.database() as url, Database(url) as database:
        schema.upgrade(database)
        site = Site(tmp_path, database, url)
        with sending(site, site.configure(http_url=consumer.url)):
            site.tell("start")
            consumer.wait(1)
            postgresql.stop()
            time.sleep(0.7)
            postgresql.start()
            site.tell("start", "end")
            consumer.wait(3)
            site.settled()
    assert len({one["id"] for one in consumer.got}) == 3


def test_a_sender_that_is_stopped_stops(site: Site, consumer: Consumer) -> None:
    consumer.stop()
    with sending(site, site.configure(http_url=consumer.url, max_wait=60.0)):
        site.tell("start")
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
