"""Events from real brokers: none lost, none twice, whoever dies, and whatever somebody sends."""

from __future__ import annotations

import datetime
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest

from imageflow import config
from imageflow.errors import ConfigError
from imageflow.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.listeners.amqp import AmqpListener
from imageflow.listeners.notifications import NotificationListener
from imageflow.model import Receipt
from imageflow.persistence.database import Database
from imageflow.signals import Flag
from tests.integration.broker_site import (
    Bus,
    Publisher,
    Stored,
    activated,
    cloud,
    forget,
    listening,
    sample,
    settings,
    until,
    waiting,
)
from tests.services import PASSWORD, PostgreSQL, RabbitMQ, running

TOKEN = "gAAAAABsecret-token"


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path}/imageflow.db") as database:
        database.upgrade()
        yield database


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    yield rabbitmq
    forget(rabbitmq)


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


# What is said


def test_an_upload_is_one_activation(tmp_path: Path, sqlite: Database, broker: RabbitMQ) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus})
    with listening("notifications", file, SqlInbox(sqlite)):
        bus = Bus(broker.bus)
        bus.say(*sample("glance-upload"), *sample("glance-upload"), *sample("glance-delete"))
        until(lambda: stored.rows() and stored.rows()[-1].type == "glance.image.delete")
    [activation] = [row for row in stored.rows() if row.type == "glance.image.activate"]
    assert (activation.source, activation.subject, activation.data["status"]) == ("glance", "debian-base", "active")
    assert activation.deliveries >= 2
    assert not [row for row in stored.rows() if row.data.get("status") == "saving"]
    assert waiting(broker, "imageflow") == 0


def test_nova_and_its_tokens(tmp_path: Path, sqlite: Database, broker: RabbitMQ) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus})
    with listening("notifications", file, SqlInbox(sqlite)):
        Bus(broker.bus, "nova").say(*sample("nova-snapshot"))
        until(lambda: len(stored.rows()) == 2)
    versioned, unversioned = stored.rows()
    assert (versioned.type, versioned.source, versioned.subject) == ("nova.instance.snapshot.end", "nova", "t2")
    assert unversioned.type == "nova.compute.instance.snapshot.end"
    assert versioned.data["flavor"]["name"] == "m1.micro"
    assert versioned.data["snapshot_image_id"]
    assert "gAAAA" not in str(stored.rows())


def test_fake(tmp_path: Path, sqlite: Database) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": "fake:///"})
    with listening("notifications", file, SqlInbox(sqlite)):
        bus = Bus("fake:///")
        bus.say(*(activated(f"i{n}") for n in range(5)))
        bus.say({"event_type": "image.upload", "payload": "no space left", "priority": "error"})
        bus.say({"event_type": "image.send", "payload": {}})
        until(lambda: len(stored.rows()) == 6)
    [failed] = [row for row in stored.rows() if row.type == "glance.image.upload.error"]
    assert failed.data == {"message": "no space left"}
    assert [row.subject for row in stored.rows() if row is not failed and row.subject] == [f"i{n}" for n in range(5)]


def test_two_listeners_share_the_queue_and_others_still_get_everything(
    tmp_path: Path, sqlite: Database, broker: RabbitMQ
) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus})
    with kombu.Connection(broker.url) as connection:
        exchange = kombu.Exchange("glance", type="topic", durable=False)
        other = kombu.Queue("notifications.info", exchange, routing_key="notifications.info", durable=False)
        other.bind(connection.channel()).declare()
        with listening("notifications", file, SqlInbox(sqlite)), listening("notifications", file, SqlInbox(sqlite)):
            Bus(broker.bus).say(*(activated(f"i{n}") for n in range(40)))
            until(lambda: len(stored.rows()) == 40)
        assert {row.deliveries for row in stored.rows()} == {1}
        assert waiting(broker, "notifications.info") == 40


@pytest.mark.parametrize("transport", ["amqp", "memory", "filesystem", "sqla"])
def test_cloudevents_over_any_transport(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite: Database, transport: str
) -> None:
    options: dict[str, str] = {}
    if transport == "amqp":
        url = request.getfixturevalue("broker").url
    elif transport == "filesystem":
        folders = {"data_folder_in": tmp_path / "bus", "data_folder_out": tmp_path / "bus"}
        options = {name: str(path) for name, path in folders.items()} | {"control_folder": str(tmp_path / "control")}
        (tmp_path / "bus").mkdir()
        url = "filesystem://"
    else:
        url = {"memory": "memory://", "sqla": f"sqla+sqlite:///{tmp_path}/bus.db"}[transport]
    given = ",".join(f"{name}:{value}" for name, value in options.items())
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), amqp={"url": url, "transport_options": given})
    with listening("amqp", file, SqlInbox(sqlite)):
        publisher = Publisher(url, **options)
        publisher.send(cloud(1, time="2026-01-31T12:00:00Z", subject="s"))
        publisher.send([cloud(2), cloud(3)], "application/cloudevents-batch+json; charset=utf-8")
        binary = {"specversion": "1.0", "type": "test.happened", "source": "test", "subject": "s"}
        for number, prefix in ((4, "cloudEvents:"), (5, "cloudEvents_"), (6, "ce-")):
            publisher.send(
                {"n": 1}, "application/json", **{prefix + k: v for k, v in (binary | {"id": str(number)}).items()}
            )
        publisher.send(cloud(1))
        until(lambda: len(stored.rows()) == 6 and sum(row.deliveries for row in stored.rows()) == 7)
    assert sorted(stored.ids()) == ["1", "2", "3", "4", "5", "6"]
    assert {(row.type, json.dumps(row.data), row.listener) for row in stored.rows()} == {
        ("test.happened", '{"n": 1}', "amqp")
    }
    moment = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC).timestamp()
    [first] = [row for row in stored.rows() if row.id == "1"]
    assert (first.time, first.subject) == (moment, "s")
    assert not stored.rows(quarantined=True)


# What nobody can read

BAD_CLOUDEVENTS: list[tuple[Any, str, dict[str, str]]] = [
    ("{", "application/cloudevents+json", {}),
    (b"\xff\xfe\x00", "application/cloudevents+json", {}),
    ("[]", "application/cloudevents+json", {}),
    (cloud(1) | {"type": None}, "application/cloudevents+json", {}),
    (cloud(1) | {"data": float("nan")}, "application/cloudevents+json", {}),
    (cloud(1) | {"time": "yesterday"}, "application/cloudevents+json", {}),
    (cloud(1) | {"source": "imageflow"}, "application/cloudevents+json", {}),
    ({"events": []}, "application/cloudevents-batch+json", {}),
    ("<event/>", "application/cloudevents+xml", {}),
    ("hello", "text/plain", {}),
    ("{]", "application/json", {"cloudEvents:id": "1"}),
    ("[" * 50000, "application/cloudevents+json", {}),
]


def test_cloudevents_that_are_none(tmp_path: Path, sqlite: Database, broker: RabbitMQ) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), amqp={"url": broker.url})
    with listening("amqp", file, SqlInbox(sqlite)):
        publisher = Publisher(broker.url)
        for body, content_type, headers in BAD_CLOUDEVENTS:
            publisher.send(body, content_type, **headers)
        publisher.send([cloud("good"), {}, cloud("fine")], "application/cloudevents-batch+json")
        until(lambda: stored.ids() == ["good", "fine"])
        until(lambda: len(stored.rows(quarantined=True)) == len(BAD_CLOUDEVENTS) + 1)
    assert all(row.reason and "unexpected" not in row.reason for row in stored.rows(quarantined=True))
    assert waiting(broker, "imageflow.events") == 0


def envelope(**message: Any) -> dict[str, str]:
    told = {"publisher_id": "image.host1", "event_type": "image.activate", "priority": "INFO", "message_id": "m"}
    whole = told | {"timestamp": "2026-01-31 12:00:00", "payload": {}, "_context_auth_token": TOKEN} | message
    return {"oslo.version": "2.0", "oslo.message": json.dumps(whole)}


BAD_NOTIFICATIONS: list[Any] = [
    "{",
    b"\xff\xfe",
    "[1, 2]",
    {"oslo.version": "2.0", "oslo.message": '{"_context_auth_token": "' + TOKEN},
    {"oslo.version": "9.0", "oslo.message": "{}"},
    {"oslo.version": "2.0", "oslo.message": "5"},
    envelope(event_type=5),
    envelope(priority=7, event_type=None),
    envelope(publisher_id=["x"]),
    envelope(payload=[], priority="unheard-of"),
    envelope(publisher_id="imageflow.host1", event_type="build.end"),
    envelope(
        publisher_id="nova-compute:h",
        event_type="instance.snapshot.end",
        payload={"nova_object.name": "P", "nova_object.version": "2.0", "nova_object.data": {"admin_pass": PASSWORD}},
    ),
]


def test_notifications_that_are_none(tmp_path: Path, sqlite: Database, broker: RabbitMQ) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus})
    with listening("notifications", file, SqlInbox(sqlite)), kombu.Connection(broker.url) as connection:
        exchange = kombu.Exchange("glance", type="topic", durable=False)
        with connection.Producer(exchange=exchange, routing_key="notifications.info") as producer:
            for body in BAD_NOTIFICATIONS:
                text = body if isinstance(body, bytes | str) else json.dumps(body)
                binary = "binary" if isinstance(body, bytes) else "utf-8"
                producer.publish(text, content_type="application/json", content_encoding=binary)
        Bus(broker.bus).say(activated("good"))
        until(lambda: len(stored.rows(quarantined=True)) == len(BAD_NOTIFICATIONS))
        until(lambda: stored.subjects() == ["good"])
    quarantined = stored.rows(quarantined=True)
    assert all(row.reason and "unexpected" not in row.reason for row in quarantined)
    assert "version 2.0" in quarantined[-1].reason
    assert TOKEN not in str(quarantined)
    assert PASSWORD not in str(quarantined)
    assert {row.deliveries for row in quarantined} == {1}
    assert waiting(broker, "imageflow") == 0


# Who dies


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
        cwd=Path(__file__).parents[2],
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
    assert broker._process is not None
    file = settings(tmp_path, url_of(sqlite), notifications={"transport_url": broker.bus}, amqp={"url": broker.url})
    began = time.monotonic()
    try:
        with listening(name, file, SqlInbox(sqlite), seconds=60):
            broker._process.send_signal(signal.SIGSTOP)
            time.sleep(1)
            began = time.monotonic()
        assert time.monotonic() - began < 45
        with listening(name, file, SqlInbox(sqlite), wait=False, seconds=60):
            time.sleep(1)
    finally:
        broker._process.send_signal(signal.SIGCONT)


class Counting(SqlInbox):
    """The inbox, and how often it was asked."""

    asked = 0

    def receive(self, *args: Any, **kwargs: Any) -> list[Receipt]:
        self.asked += 1
        return super().receive(*args, **kwargs)


@pytest.mark.parametrize("name", ["notifications", "amqp"])
def test_the_database_goes_away(tmp_path: Path, broker: RabbitMQ, name: str) -> None:
    with running(PostgreSQL) as server, server.database() as url, Database(url) as database:
        database.upgrade()
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


# What is configured


@pytest.mark.parametrize(
    ("listener", "group", "options", "says"),
    [
        (NotificationListener, "notifications", {}, r"\[notifications\] transport_url is not set"),
        (NotificationListener, "notifications", {"transport_url": "nonsense"}, "no URL of a bus"),
        (NotificationListener, "notifications", {"transport_url": f"magic://u:{PASSWORD}@h/"}, "no driver 'magic'"),
        (NotificationListener, "notifications", {"transport_url": f"rabbit://u:{PASSWORD}@h:x/"}, "no URL of a bus"),
        (AmqpListener, "amqp", {}, r"\[amqp\] url is not set"),
        (AmqpListener, "amqp", {"url": f"magic://u:{PASSWORD}@h/"}, "no URL of a broker"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, sqlite: Database, listener: Any, group: str, options: dict[str, str], says: str
) -> None:
    file = settings(tmp_path, url_of(sqlite), **{group: options})
    with pytest.raises(ConfigError, match=says) as caught:
        listener(Surroundings(config.load([str(file)]), SqlInbox(sqlite), None)).run(Flag())
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("wrong", ["password", "durability"])
def test_what_the_broker_refuses_is_said(tmp_path: Path, sqlite: Database, broker: RabbitMQ, wrong: str) -> None:
    def spoiled(url: str) -> str:
        return url.replace(PASSWORD, "wrong") if wrong == "password" else url

    file = settings(
        tmp_path,
        url_of(sqlite),
        notifications={"transport_url": spoiled(broker.bus), "durable": False},
        amqp={"url": spoiled(broker.url), "durable": False},
    )
    with kombu.Connection(broker.url) as connection:
        for name in ("glance", "imageflow.events"):
            kombu.Exchange(name, type="topic", durable=True)(connection.channel()).declare()
    for listener in (NotificationListener, AmqpListener):
        with pytest.raises(ConfigError, match="refuses us" if wrong == "password" else "durab") as caught:
            listener(Surroundings(config.load([str(file)]), SqlInbox(sqlite), None)).run(Flag())
        assert "wrong" not in str(caught.value)


def test_random_bytes(tmp_path: Path, sqlite: Database, broker: RabbitMQ) -> None:
    stored = Stored(sqlite)
    file = settings(tmp_path, url_of(sqlite), amqp={"url": broker.url})
    chance = random.Random(4)
    types = ["application/cloudevents+json", "application/cloudevents-batch+json", "application/json", "x/y", ""]
    with listening("amqp", file, SqlInbox(sqlite)):
        publisher = Publisher(broker.url)
        for number in range(200):
            body = os.urandom(chance.randrange(40)) + str(number).encode()
            publisher.send(body, chance.choice(types))
        publisher.send(cloud("last"))
        until(lambda: stored.ids() == ["last"])
    assert len(stored.rows(quarantined=True)) == 200
