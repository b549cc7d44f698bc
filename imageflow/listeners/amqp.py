"""Listens for CloudEvents over AMQP, or any other of kombu's transports."""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from typing import Any

import kombu
from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed
from kombu.exceptions import KombuError

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.errors import BadInput, ConfigError
from imageflow.listeners import Surroundings, envelope
from imageflow.listeners.keeping import PAUSE, Keeper, Letter

LOG = logging.getLogger(__name__)
NAME = "amqp"
_CONNECT = 10.0  # seconds
_HEARTBEAT = 30  # seconds; after two silent intervals, each side takes the other as down
_ANSWER = 10  # seconds that a broker may take to answer a query
_LOOK = 0.5  # seconds between two looks at `stop`
_kombu: Any = kombu  # only partly annotated, and not where we call it


class AmqpListener:
    """Each message is acknowledged after the inbox has its events, or after it is in quarantine."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._config = surroundings.config.amqp
        self._ready = surroundings.ready
        self._keeper = Keeper(surroundings.inbox, NAME)
        self._backoff = Backoff(*PAUSE)
        self._arrived: deque[Any] = deque()
        self._listened = False  # at least once: then the configuration is good

    def run(self, stop: Flag) -> None:
        """See Listener. kombu's URL may name several brokers, separated by ';': they are tried in turn."""
        if not self._config.url:
            raise ConfigError(
                "[amqp] url is not set, and [listeners] enabled has 'amqp'",
                hint="such as amqp://USER:PASSWORD@HOST:5672/VHOST",
            )
        for url in itertools.cycle(self._config.url.split(";")):
            if stop.is_set():
                return
            connection, troubles = self._prepared(url)
            place = connection.as_uri(include_password=False)
            try:
                with connection:
                    connection.connect()
                    self._listen(connection, place, stop)
            except troubles as error:
                self._check(error, place)
                LOG.warning("%s: %s", place, _said(error))
                self._backoff.wait(stop)

    def _prepared(self, url: str) -> tuple[Any, tuple[type[BaseException], ...]]:
        """A connection not yet opened, and the exceptions that it may raise when the broker fails."""
        try:
            options: dict[str, Any] = dict(self._config.transport_options)
            connection = _kombu.Connection(url, connect_timeout=_CONNECT, heartbeat=_HEARTBEAT)
            transport = connection.get_transport_cls()
            if transport.driver_type == "amqp":
                options = {"read_timeout": _ANSWER, "write_timeout": _ANSWER} | options
            connection.transport_options = options
            return connection, (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)
        except (LookupError, ImportError, AttributeError, TypeError, ValueError, KombuError):
            raise ConfigError(
                "[amqp] url is not the URL of a broker", hint="such as amqp://USER:PASSWORD@HOST:5672/VHOST"
            ) from None  # the cause may show the password

    def _check(self, error: BaseException, place: str) -> None:
        """Raises ConfigError for what waiting will not cure: it ends the service, so only before the first success."""
        if self._listened:
            return
        if isinstance(error, PreconditionFailed):
            raise ConfigError(
                f"{place}: {_said(error)}", hint="set [amqp] exchange, queue and durable as they are in the broker"
            ) from error
        if isinstance(error, AccessRefused | NotAllowed):
            raise ConfigError(
                f"{place} refuses us: {_said(error)}", hint="check user, password and virtual host of [amqp] url"
            ) from error

    def _queue(self) -> Any:
        config = self._config
        if not config.exchange:
            return _kombu.Queue(config.queue, durable=config.durable)
        exchange = _kombu.Exchange(config.exchange, type="topic", durable=config.durable)
        bindings = [_kombu.binding(exchange, routing_key=key) for key in config.routing_keys]
        return _kombu.Queue(config.queue, exchange, bindings=bindings, durable=config.durable)

    def _listen(self, connection: Any, place: str, stop: Flag) -> None:
        self._arrived.clear()
        consumer = _kombu.Consumer(
            connection.channel(),
            [self._queue()],
            on_message=self._arrived.append,
            prefetch_count=self._config.prefetch,
        )
        with consumer:
            if not self._listened:
                self._listened = True
                self._ready(f"CloudEvents in {self._config.queue}: {place}")
            while not stop.is_set():
                self._gather(connection)
                if self._arrived:
                    self._keep(stop)
                if connection.supports_heartbeats:
                    connection.heartbeat_check()
                self._backoff.reset()

    def _gather(self, connection: Any) -> None:
        """Wait for a message, and take those that are already there with it."""
        timeout = _LOOK
        while len(self._arrived) < self._config.prefetch:
            try:
                connection.drain_events(timeout=timeout)
            except TimeoutError:
                return
            timeout = 0

    def _keep(self, stop: Flag) -> None:
        messages = [self._arrived.popleft() for _ in range(len(self._arrived))]
        done = self._keeper.keep([letter for message in messages for letter in self.letters(message)], stop)
        for message in messages:
            if done:
                message.ack()
            else:
                message.requeue()

    def letters(self, message: Any) -> list[Letter]:
        """The contents of a message, or why it can't be read."""
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
        source = f"{NAME}:{self._config.queue}"
        letters: list[Letter] = []
        try:
            for event, raw in envelope.read(message.content_type, message.headers or {}, body):
                kept = functools.partial(envelope.printable, raw)
                if isinstance(event, BadInput):
                    letters.append(Letter(source, kept, unreadable=str(event)))
                else:
                    letters.append(Letter(source, kept, [event]))
        except Exception as error:
            problem = str(error) if isinstance(error, BadInput) else f"unexpected: {type(error).__name__}"
            if not isinstance(error, BadInput):
                LOG.exception("amqp: a bug in imageflow, at a message")
            return [Letter(source, functools.partial(envelope.printable, body), unreadable=problem)]
        return letters


def _said(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or getattr(error, "reply_text", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
