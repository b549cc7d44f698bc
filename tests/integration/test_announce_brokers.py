"""Announcements over a real RabbitMQ: what counts as sent was confirmed by the broker, and survives it."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import oslo_messaging
import pytest
from oslo_config import cfg

from imageflow.announce import Stumbled, load
from imageflow.config import Config
from imageflow.errors import Unavailable
from imageflow.model import Announcement, Delivery
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.integration.test_announce import LIFE, Site, kinds, sending
from tests.samples.announcements import announcements
from tests.servers.services import PASSWORD, RabbitMQ
from tests.servers.suspending import suspended


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Database(f"sqlite:///{tmp_path}/imageflow.db") as database:
        schema.upgrade(database)
        yield Site(tmp_path, database, str(database.url))


@pytest.fixture
def name() -> str:
    """Of an exchange that no other test has."""
    return f"x{uuid.uuid4().hex[:10]}"


class Queue:
    """A durable queue bound to an exchange of CloudEvents."""

    def __init__(self, server: RabbitMQ, exchange: str, key: str = "#", **arguments: Any) -> None:
        self.server = server
        self.queue = kombu.Queue(
            f"q-{exchange}",
            kombu.Exchange(exchange, type="topic", durable=True),
            routing_key=key,
            durable=True,
            queue_arguments=arguments,
        )
        with kombu.Connection(server.url) as connection:
            self.queue(connection).declare()

    def take(self, number: int, seconds: float = 30.0) -> list[Any]:
        """So many messages, acknowledged."""
        found: list[Any] = []
        end = time.monotonic() + seconds
        with kombu.Connection(self.server.url) as connection:
            queue = self.queue(connection.channel())
            while len(found) < number:
                assert time.monotonic() < end, f"{len(found)} of {number} came"
                if (message := queue.get()) is None:
                    time.sleep(0.02)
                    continue
                message.ack()
                found.append(message)
            assert queue.get() is None
        return found


def amqp(site: Site, server: RabbitMQ, name: str, **options: Any) -> Config:
    return site.configure(targets="amqp", amqp_url=server.url, amqp_exchange=name, **options)


def test_cloudevents_come_over_amqp_persistent_and_in_order(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    queue = Queue(rabbitmq, name)
    with sending(site, amqp(site, rabbitmq, name)):
        builds = site.tell(builds=4, targets=("amqp",))
        found = site.settled()
    rabbitmq.stop()
    rabbitmq.start()
    messages = queue.take(24)
    events = [json.loads(message.body) for message in messages]
    assert [kinds(events, build) for build in builds] == [LIFE] * 4
    assert {one.state for one in found} == {"sent"}
    for message, event in zip(messages, events, strict=True):
        assert message.delivery_info["routing_key"] == event["type"]
        assert message.content_type == "application/cloudevents+json"
        assert message.properties["message_id"] == event["id"]
        assert message.properties["delivery_mode"] == 2


def test_consumers_choose_by_the_routing_key(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    queue = Queue(rabbitmq, name, "dev.cdevents.#")
    with sending(site, amqp(site, rabbitmq, name, cdevents=True)):
        site.tell("start", "pause", "end", targets=("amqp",))
        site.settled()
    types = [json.loads(message.body)["type"] for message in queue.take(2)]
    assert types == ["dev.cdevents.build.started.0.2.0", "dev.cdevents.build.finished.0.2.0"]


def test_a_broker_that_is_away_gets_everything_when_it_is_back(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    queue = Queue(rabbitmq, name)
    with sending(site, amqp(site, rabbitmq, name)):
        builds = site.tell("start", builds=2, targets=("amqp",))
        site.settled()
        rabbitmq.stop()
        builds += site.tell(builds=3, targets=("amqp",))
        end = time.monotonic() + 20
        while not any(one.error for one in site.deliveries(states=["waiting"])):
            assert time.monotonic() < end
            time.sleep(0.05)
        errors = {one.error for one in site.deliveries()} - {None}
        rabbitmq.start()
        found = site.settled()
    assert PASSWORD not in str(errors)
    assert "refused" in str(errors).lower()
    events = [json.loads(message.body) for message in queue.take(20)]
    assert len({one["id"] for one in events}) == 20
    assert [kinds(events, build) for build in builds] == [("start",)] * 2 + [LIFE] * 3
    assert {(one.state, one.attempts) for one in found} == {("sent", 1)}


def lost(found: list[Delivery], came: set[str], killed: float, back: float, server: RabbitMQ) -> str:
    """What counts as sent and did not come, each with its time before or after the kill; and what the broker says."""
    rows = [
        f"{(one.sent or 0.0) - killed:+8.3f} s {'came' if one.announcement.id in came else 'LOST'} "
        f"{one.announcement.type} of {one.announcement.build_id}, attempts {one.attempts}, last error {one.error}"
        for one in found
    ]
    return "\n".join(
        [
            f"the broker was back {back - killed:.3f} s after the kill",
            *rows,
            (server.folder / "log").read_text()[-3000:],
        ]
    )


def test_a_broker_killed_while_we_send_loses_nothing_that_counts_as_sent(
    site: Site, rabbitmq: RabbitMQ, name: str
) -> None:
    queue = Queue(rabbitmq, name)
    with sending(site, amqp(site, rabbitmq, name)):
        builds = site.tell(builds=40, targets=("amqp",))
        time.sleep(0.3)
        killed = time.time()
        rabbitmq.stop(signal.SIGKILL)
        rabbitmq.start()
        back = time.time()
        found = site.settled(60)
    with kombu.Connection(rabbitmq.url) as connection:
        number = queue.queue(connection.channel()).queue_declare(passive=True).message_count
    events = [json.loads(message.body) for message in queue.take(number)]
    came = {one["id"] for one in events}
    assert came >= {one.announcement.id for one in found}, lost(found, came, killed, back, rabbitmq)
    assert [kinds(events, build) for build in builds] == [LIFE] * 40
    assert len(events) - len({one["id"] for one in events}) <= 1


def an_announcement() -> Announcement:
    return announcements()[0]


def test_a_queue_that_is_full_is_no_success(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    Queue(rabbitmq, name, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    announcer = load("amqp")(amqp(site, rabbitmq, name))
    announcer.send(an_announcement())
    for _ in range(2):
        with pytest.raises(Stumbled, match="full"):
            announcer.send(an_announcement())
    announcer.close()


def test_an_exchange_that_is_another_thing_is_said(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    with kombu.Connection(rabbitmq.url) as connection:
        kombu.Exchange(name, type="fanout", durable=False)(connection).declare()
    announcer = load("amqp")(amqp(site, rabbitmq, name))
    with pytest.raises(Unavailable, match="inequivalent"):
        announcer.send(an_announcement())


@pytest.mark.parametrize("target", ["amqp", "notifications"])
def test_a_wrong_password_is_said_without_it(site: Site, rabbitmq: RabbitMQ, name: str, target: str) -> None:
    bad = {"amqp_url": rabbitmq.url, "transport_url": rabbitmq.bus}
    options = {key: url.replace(PASSWORD, "wrong-one") for key, url in bad.items()}
    announcer = load(target)(site.configure(targets=target, timeout=3.0, **options))
    with pytest.raises(Unavailable) as caught:
        announcer.send(an_announcement())
    assert "wrong-one" not in str(caught.value)
    announcer.close()


@pytest.mark.parametrize("target", ["amqp", "notifications"])
def test_a_broker_that_hangs_is_away(site: Site, rabbitmq: RabbitMQ, name: str, target: str) -> None:
    options = {"amqp_url": rabbitmq.url, "transport_url": rabbitmq.bus, "topic": name, "amqp_exchange": name}
    announcer = load(target)(site.configure(targets=target, timeout=1.0, **options))
    announcer.send(an_announcement())
    with suspended(rabbitmq.pid):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            announcer.send(an_announcement())
        assert time.monotonic() - began < 20
    announcer.send(an_announcement())
    announcer.close()


class Endpoint:
    """A consumer of notifications as every OpenStack service writes it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = []
        self._news = threading.Condition()

    def info(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        self._take("info", publisher_id, event_type, payload, metadata)

    def error(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> None:
        self._take("error", publisher_id, event_type, payload, metadata)

    def _take(self, *what: Any) -> None:
        with self._news:
            self.got.append(what)  # type: ignore[arg-type]
            self._news.notify_all()

    def wait(self, number: int) -> None:
        end = time.monotonic() + 30
        with self._news:
            while len(self.got) < number:
                assert self._news.wait(end - time.monotonic()), f"{len(self.got)} of {number} came"


@pytest.fixture
def endpoint(rabbitmq: RabbitMQ, name: str) -> Iterator[Endpoint]:
    """A real notification listener."""
    conf = cfg.ConfigOpts()
    conf([], project="consumer", default_config_files=[], default_config_dirs=[])
    transport = oslo_messaging.get_notification_transport(conf, url=rabbitmq.bus)
    conf.set_override("amqp_durable_queues", True, group="oslo_messaging_rabbit")
    endpoint = Endpoint()
    target = oslo_messaging.Target(exchange=name, topic=name)
    listener = oslo_messaging.get_notification_listener(transport, [target], [endpoint], executor="threading")
    listener.start()
    yield endpoint
    listener.stop()
    listener.wait()
    transport.cleanup()


def bus(site: Site, server: RabbitMQ, name: str) -> Config:
    """Queues are named by the topic alone, whatever the exchange: each test has its own."""
    return site.configure(
        targets="notifications", transport_url=server.bus, exchange=name, topic=name, durable=True, timeout=2.0
    )


def test_notifications_reach_a_listener_of_oslo_messaging(
    site: Site, rabbitmq: RabbitMQ, name: str, endpoint: Endpoint
) -> None:
    with sending(site, bus(site, rabbitmq, name)):
        (build,) = site.tell("start", "pause", "error", targets=("notifications",))
        endpoint.wait(3)
        found = site.settled()
    assert [(one[0], one[1], one[2]) for one in sorted(endpoint.got, key=lambda one: one[4]["timestamp"])] == [
        ("info", "imageflow.h1", "imageflow.build.start"),
        ("info", "imageflow.h1", "imageflow.build.pause"),
        ("error", "imageflow.h1", "imageflow.build.error"),
    ]
    assert {one[4]["message_id"] for one in endpoint.got} == {one.announcement.id for one in found}
    payload = endpoint.got[0][3]
    assert payload["imageflow_object.name"] == "BuildPayload"
    assert payload["imageflow_object.version"] == "1.0"
    assert payload["imageflow_object.data"]["id"] == build


def test_notifications_wait_for_a_broker_that_is_away(site: Site, rabbitmq: RabbitMQ, name: str) -> None:
    with sending(site, bus(site, rabbitmq, name)):
        site.tell("start", targets=("notifications",))
        site.settled()
        rabbitmq.stop()
        site.tell(builds=3, targets=("notifications",))
        end = time.monotonic() + 30
        while not any(one.error for one in site.deliveries(states=["waiting"])):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1)
        assert sum(one.state == "sent" for one in site.deliveries()) == 1
        assert PASSWORD not in str({one.error for one in site.deliveries()})
        rabbitmq.start()
        found = site.settled(60)
    assert {(one.state, one.attempts) for one in found} == {("sent", 1)}
    with kombu.Connection(rabbitmq.url) as connection:  # oslo.messaging made the queue, so that nothing is lost
        queue = kombu.Queue(f"{name}.info", durable=True)(connection.channel())
        ids = []
        while (message := queue.get()) is not None:
            message.ack()
            ids.append(json.loads(json.loads(message.body)["oslo.message"])["message_id"])
    assert {one.announcement.id for one in found} <= set(ids)
