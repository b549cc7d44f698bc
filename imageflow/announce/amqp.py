"""CloudEvents to a topic exchange over AMQP, or any other of kombu's transports; the routing key is their type."""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

import kombu
from amqp.exceptions import MessageNacked
from cloudevents.core.v1.event import CloudEvent
from kombu.exceptions import KombuError

from imageflow.announce import Stumbled, needed, payload
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable
from imageflow.model import Announcement

_kombu: Any = kombu  # only partly annotated, and not where we call it


class AmqpAnnouncer:
    """Publishes each announcement; the target has it when the broker confirms it.

    With no queue bound to the exchange, the broker confirms it and drops it: it has no subscribers.
    """

    def __init__(self, config: Config) -> None:
        self._url = needed(config.announce.amqp_url or config.amqp.url, "amqp_url")
        self._timeout = config.announce.timeout
        self._source = payload.source(config)
        self._cdevents = config.announce.cdevents
        name = needed(config.announce.amqp_exchange, "amqp_exchange")
        self._exchange = _kombu.Exchange(name, type="topic", durable=True)
        self._connection: Any = None
        self._producer: Any = None
        try:
            connection = self._connect()
            self._troubles = (
                KombuError,
                OSError,
                MessageNacked,
                *connection.connection_errors,
                *connection.channel_errors,
            )
            self._place = str(connection.as_uri(include_password=False))
        except (LookupError, ImportError, AttributeError, TypeError, ValueError, KombuError):
            raise ConfigError(
                "[announce] amqp_url is not the URL of a broker", hint="such as amqp://USER:PASSWORD@HOST:5672/VHOST"
            ) from None  # the cause may show the password

    def _connect(self) -> Any:
        options = {"confirm_publish": True, "read_timeout": self._timeout, "write_timeout": self._timeout}
        return _kombu.Connection(self._url, connect_timeout=self._timeout, transport_options=options)

    def send(self, announcement: Announcement) -> None:
        events = payload.clouds(announcement, self._source, with_cdevents=self._cdevents)
        if self._producer is not None:
            try:
                self._publish(events)
                return
            except Stumbled:
                raise
            except (
                Unavailable
            ):  # it may have been idle for hours, and the broker restarted: retry once with a new connection
                pass
        self._open()
        self._publish(events)

    def _open(self) -> None:
        self._connection = self._connect()
        try:
            self._connection.connect()
            self._producer = _kombu.Producer(self._connection.channel(), exchange=self._exchange)
            self._exchange(self._producer.channel).declare()
        except self._troubles as error:
            self._give_up(error)

    def _publish(self, events: list[CloudEvent]) -> None:
        for event in events:
            try:
                self._producer.publish(
                    payload.encode(event),
                    routing_key=event.get_type(),
                    content_type=payload.CONTENT_TYPE,
                    content_encoding="utf-8",
                    delivery_mode=_kombu.Exchange.PERSISTENT_DELIVERY_MODE,
                    message_id=event.get_id(),
                    type=event.get_type(),
                    timeout=self._timeout,
                    confirm_timeout=self._timeout,
                    retry=False,
                )
            except self._troubles as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> NoReturn:
        """Raise our error for a transport's error."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.collect(self._timeout)  # without a goodbye, which may never be answered
        if isinstance(error, MessageNacked):
            raise Stumbled(f"{self._place} did not take the announcement: a queue is full or missing") from error
        raise Unavailable(f"{self._place}: {_said(error)}") from error

    def close(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(*self._troubles):
                connection.release()


def _said(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or getattr(error, "reply_text", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
