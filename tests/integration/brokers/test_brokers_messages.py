"""Notifications and CloudEvents over real brokers: what was said is in the inbox, once."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import kombu
import pytest

from imageflow.events.inbox import SqlInbox
from imageflow.persistence.database import Database
from tests.integration.broker_site import (
    Bus,
    Publisher,
    Stored,
    activated,
    cloud,
    listening,
    sample,
    settings,
    until,
    url_of,
    waiting,
)
from tests.servers.services import RabbitMQ


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
