"""Brokers' listeners over a database, and who speaks to them: OpenStack's Notifier, kombu's producer."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kombu
import oslo_messaging
import sqlalchemy as sa
from oslo_config import cfg

from imageflow import config
from imageflow.background.flag import Flag
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.listeners.amqp import AmqpListener
from imageflow.listeners.notifications import NotificationListener
from imageflow.persistence.database import Database
from imageflow.persistence.tables import events
from tests.servers.services import RabbitMQ

NOTIFICATIONS = Path(__file__).parent / "notifications"
LISTENERS = {"notifications": NotificationListener, "amqp": AmqpListener}


def sample(name: str) -> list[dict[str, Any]]:
    """Notifications as a real OpenStack sent them, in order."""
    return json.loads((NOTIFICATIONS / f"{name}.json").read_text())


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen"
        time.sleep(0.05)


def settings(folder: Path, database: str, **groups: Mapping[str, Any]) -> Path:
    """A configuration file."""
    sections = {"DEFAULT": {"state_dir": folder}, "database": {"connection": database}} | groups
    lines = [f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for name, values in sections.items()]
    file = folder / "imageflow.conf"
    file.write_text("".join(lines))
    return file


class Bus:
    """A service of OpenStack with its Notifier."""

    def __init__(self, url: str, exchange: str = "glance", *, durable: bool = False) -> None:
        self._conf = cfg.ConfigOpts()
        self._conf([], project="tests", default_config_files=[], default_config_dirs=[])
        oslo_messaging.set_transport_defaults(exchange)
        self._transport = oslo_messaging.get_notification_transport(self._conf, url=url)
        weakref.finalize(self, self._transport.cleanup)  # its heartbeat would go on after the broker's end
        if "oslo_messaging_rabbit" in self._conf:
            self._conf.set_override("amqp_durable_queues", durable, group="oslo_messaging_rabbit")
        self.notifier = oslo_messaging.Notifier(
            self._transport, driver="messagingv2", topics=["notifications"], publisher_id="image.host1", retry=0
        )

    def say(self, *messages: Mapping[str, Any]) -> None:
        for message in messages:
            notifier = self.notifier.prepare(publisher_id=message.get("publisher_id", "image.host1"))
            send = getattr(notifier, message.get("priority", "info"))
            send(message.get("ctxt", {}), message["event_type"], message["payload"])


def activated(image: str, checksum: str = "c1") -> dict[str, Any]:
    """Glance tells that this image has its content."""
    [message] = [one for one in sample("glance-upload") if one["event_type"] == "image.activate"]
    return message | {"payload": message["payload"] | {"id": image, "name": image, "checksum": checksum}}


def cloud(number: int | str, **more: Any) -> dict[str, Any]:
    """A CloudEvent in its JSON form."""
    return {"specversion": "1.0", "source": "test", "id": str(number), "type": "test.happened", "data": {"n": 1}} | more


class Publisher:
    """Sends CloudEvents to the exchange that we listen to."""

    def __init__(self, url: str, **options: Any) -> None:
        if url.startswith("amqp"):
            options["confirm_publish"] = True  # a broker that is stopped right afterwards has it
        self.connection = kombu.Connection(url, transport_options=options)
        self.exchange = kombu.Exchange("imageflow.events", type="topic", durable=True)
        # Where no broker keeps the bindings, each publisher has to know them.
        self.queue = kombu.Queue("imageflow.events", self.exchange, routing_key="#", durable=True)

    def send(self, body: Any, content_type: str = "application/cloudevents+json", **headers: Any) -> None:
        with self.connection.Producer() as producer:
            producer.publish(
                body if isinstance(body, bytes | str) else json.dumps(body),
                exchange=self.exchange,
                declare=[self.exchange if self.connection.transport.driver_type != "sql" else self.queue],
                routing_key="test",
                content_type=content_type,
                content_encoding="binary" if isinstance(body, bytes) else "utf-8",
                headers=headers,
            )


class Stored:
    """What the inbox has."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def rows(self, *, quarantined: bool = False) -> Sequence[sa.Row[Any]]:
        with self.database.read() as conn:
            where = events.c.verdict == "quarantined" if quarantined else events.c.verdict.is_(None)
            return conn.execute(sa.select(events).where(where).order_by(events.c.seq)).all()

    def ids(self) -> list[str]:
        return [row.id for row in self.rows()]

    def subjects(self) -> list[str | None]:
        return [row.subject for row in self.rows()]


@contextlib.contextmanager
def listening(
    name: str, file: Path, inbox: SqlInbox, *, wait: bool = True, seconds: float = 30.0
) -> Iterator[threading.Event]:
    """A listener in a thread; -> set when it listens. It stops at the end within the seconds, or the test fails."""
    ready, stop, trouble = threading.Event(), Flag(), []
    listener = LISTENERS[name](Surroundings(config.load([str(file)]), inbox, None, lambda _what: ready.set()))

    def run() -> None:
        try:
            listener.run(stop)
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        if wait:
            until(lambda: ready.is_set() or trouble, seconds)
            assert not trouble, trouble
        yield ready
    finally:
        stop.set()
        thread.join(seconds)
        assert not thread.is_alive(), f"{name} does not stop"
        assert not trouble, trouble


def waiting(broker: RabbitMQ, queue: str) -> int:
    """Messages that a queue holds and nobody has taken."""
    with kombu.Connection(broker.url) as connection:
        return connection.channel().queue_declare(queue, passive=True).message_count


def url_of(database: Database) -> str:
    """With its password, as a configuration file has it."""
    return database.url.render_as_string(hide_password=False)
