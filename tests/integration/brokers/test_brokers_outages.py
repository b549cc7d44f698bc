"""Listener, broker or database die, hang or go away: no message is lost, and none becomes two events."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest

from imageflow.events.inbox import SqlInbox
from imageflow.model import Receipt
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.integration.broker_site import (
    Bus,
    Publisher,
    Stored,
    activated,
    cloud,
    listening,
    settings,
    until,
    url_of,
    waiting,
)
from tests.servers.services import PASSWORD, PostgreSQL, RabbitMQ, running
from tests.servers.suspending import suspended


def kill(name: str, rounds: int, tmp_path: Path, database: Database, broker: RabbitMQ) -> None:
    """Kill the listener in every way, again and again: every message becomes one event."""
    stored = Stored(database)
    file = settings(
        tmp_path,
        url_of(database),
        notifications={"transport_url": broker.bus, "durable": True, "prefetch": 1},
        amqp={"url": broker.url, "prefetch": 1},
    )
    with listening(name, file, SqlInbox(database)):
        pass  # the queue is there
    names = [f"i{number}" for number in range(3 * rounds + 3)]
    if name == "amqp":
        publisher = Publisher(broker.url)
        for one in names:
            publisher.send(cloud(one, subject=one))
    else:
        Bus(broker.bus, durable=True).say(*map(activated, names))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.broker_worker", name, str(file), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as worker:
        try:
            assert worker.stdout is not None
            assert int(worker.stdout.readline()) == rounds
            until(lambda: len(stored.rows()) == len(names), 60)
            until(lambda: waiting(broker, "imageflow.events" if name == "amqp" else "imageflow") == 0)
        finally:
            worker.communicate("", timeout=60)
    assert worker.returncode == 0
    assert stored.subjects() == names  # each once, and in order
    assert sum(row.deliveries for row in stored.rows()) >= len(names) + rounds // 2


@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_killed_between_receipt_and_commit(tmp_path: Path, database: Database, broker: RabbitMQ, name: str) -> None:
    kill(name, 10, tmp_path, database, broker)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_killed_a_hundred_times(tmp_path: Path, database: Database, broker: RabbitMQ, name: str) -> None:
    kill(name, 100, tmp_path, database, broker)


class Cutting(SqlInbox):
    """The inbox, with a broker that goes away right after a commit: the acknowledgement gets lost."""

    cut: Any = None

    def receive(self, *args: Any, **kwargs: Any) -> list[Receipt]:
        receipts = super().receive(*args, **kwargs)
        if self.cut is not None and receipts[0].event.subject == "n-4":
            cut, self.cut = self.cut, None
            cut()
        return receipts


def outage(seconds: float, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    stored = Stored(database)
    caplog.set_level(logging.DEBUG)
    with running(RabbitMQ) as broker:
        file = settings(
            tmp_path,
            url_of(database),
            notifications={"transport_url": broker.bus, "durable": True, "prefetch": 1},
            amqp={"url": broker.url, "prefetch": 1},
        )
        inbox = Cutting(database)
        for name in ("notifications", "amqp"):
            with listening(name, file, inbox):
                pass

        def say(*names: str) -> None:
            publisher = Publisher(broker.url)
            for name in names:
                publisher.send(cloud(name, subject=f"a-{name}"))
            Bus(broker.bus, durable=True).say(*(activated(f"n-{name}") for name in names))

        def arrived(*names: str) -> None:
            wanted = {f"{kind}-{name}" for name in names for kind in "na"}
            until(lambda: wanted <= set(stored.subjects()), 60)

        say("1", "2", "3")
        broker.stop()
        with (
            listening("notifications", file, inbox, wait=False) as notifications,
            listening("amqp", file, inbox, wait=False) as clouds,
        ):
            time.sleep(seconds)
            assert not stored.rows()
            broker.start()
            arrived("1", "2", "3")
            assert notifications.is_set()
            assert clouds.is_set()
            inbox.cut = broker.stop
            say("4")  # stored, and never acknowledged
            until(lambda: broker._process is None)
            time.sleep(seconds)
            broker.start()
            say("5", "6")
            arrived("4", "5", "6")
            until(lambda: waiting(broker, "imageflow") + waiting(broker, "imageflow.events") == 0)
            broker.stop()
            began = time.monotonic()
        assert time.monotonic() - began < 25  # both stop although the broker is away
    assert len(stored.rows()) == 12
    assert PASSWORD not in caplog.text
    assert "user:" not in caplog.text


@pytest.mark.timeout(300)
def test_the_broker_goes_away(tmp_path: Path, sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    outage(3, tmp_path, sqlite, caplog)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_broker_goes_away_for_a_minute(tmp_path: Path, sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    outage(60, tmp_path, sqlite, caplog)


@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_somebody_deletes_the_queue(tmp_path: Path, sqlite: Database, broker: RabbitMQ, name: str) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus}, amqp={"url": broker.url})
    queue = {"notifications": "imageflow", "amqp": "imageflow.events"}[name]

    def there() -> bool:
        try:
            return waiting(broker, queue) == 0
        except amqp.NotFound:
            return False

    with listening(name, file, SqlInbox(sqlite)):
        with kombu.Connection(broker.url) as connection:
            connection.channel().queue_delete(queue)
        until(there)
        until(lambda: (Bus(broker.bus).say(activated("i")), Publisher(broker.url).send(cloud("i")), stored.rows())[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_a_broker_that_hangs_keeps_nobody(tmp_path: Path, sqlite: Database, broker: RabbitMQ, name: str) -> None:
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus}, amqp={"url": broker.url})
    began = time.monotonic()
    with contextlib.ExitStack() as hanging:
        with listening(name, file, SqlInbox(sqlite), seconds=60):
            hanging.enter_context(suspended(broker.pid))
            time.sleep(1)
            began = time.monotonic()
        assert time.monotonic() - began < 45
        with listening(name, file, SqlInbox(sqlite), wait=False, seconds=60):
            time.sleep(1)


class Counting(SqlInbox):
    """The inbox, and how often it was asked."""

    asked = 0

    def receive(self, *args: Any, **kwargs: Any) -> list[Receipt]:
        self.asked += 1
        return super().receive(*args, **kwargs)


@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_the_database_goes_away(tmp_path: Path, broker: RabbitMQ, name: str) -> None:
    with running(PostgreSQL) as server, server.database() as url, Database(url) as database:
        schema.upgrade(database)
        stored, inbox = Stored(database), Counting(database)
        file = settings(
            tmp_path,
            url,
            notifications={"transport_url": broker.bus, "prefetch": 4},
            amqp={"url": broker.url, "prefetch": 4},
        )
        with listening(name, file, inbox):
            server.stop()
            names = [f"i{number}" for number in range(20)]
            if name == "amqp":
                publisher = Publisher(broker.url)
                for one in names:
                    publisher.send(cloud(one, subject=one))
            else:
                Bus(broker.bus).say(*map(activated, names))
            until(lambda: inbox.asked >= 2)
            time.sleep(1)
            assert inbox.asked < 10  # each waits for the database for a while, and then for longer and longer
            server.start()
            until(lambda: len(stored.rows()) == len(names), 60)
        assert sorted(stored.subjects()) == sorted(names)
        assert waiting(broker, "imageflow.events" if name == "amqp" else "imageflow") == 0
