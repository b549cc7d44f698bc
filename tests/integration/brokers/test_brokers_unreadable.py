"""Messages over real brokers that nobody can read: quarantined with their reason, and the next one is read."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import kombu

from imageflow.events.inbox import SqlInbox
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
from tests.servers.services import PASSWORD, RabbitMQ

TOKEN = "gAAAAABsecret-token"


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
