"""Listens to the notifications of OpenStack's services on their message bus (oslo.messaging)."""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import oslo_messaging

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.errors import BadInput
from imageflow.listeners import Surroundings, bus, openstack
from imageflow.listeners.keeping import PAUSE, Keeper, Letter

LOG = logging.getLogger(__name__)
NAME = "notifications"


class NotificationListener:
    """Each notification is acknowledged after the inbox has it, or after it is in quarantine."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._config = surroundings.config.notifications
        self._remembered = surroundings.config.events.retention
        self._ready = surroundings.ready
        self._keeper = Keeper(surroundings.inbox, NAME)
        self._aside = Keeper(surroundings.inbox, NAME)  # for the thread that reads from the broker
        patterns = (fnmatch.translate(glob.strip()) for glob in self._config.ignore)
        self._ignored = re.compile("|".join(patterns) or r"(?!)")

    def run(self, stop: Flag) -> None:
        """See Listener."""

        def handle(messages: Sequence[Mapping[str, Any]]) -> bool:
            return self._keeper.keep([self.letter(message) for message in messages], stop)

        def unreadable(raw: bytes, reason: str) -> bool:
            letter = Letter(NAME, lambda: openstack.without_secrets(raw), unreadable=reason)
            return self._aside.keep([letter], stop)

        transport = bus.Transport(self._config)
        try:
            targets = [
                oslo_messaging.Target(exchange=exchange, topic=topic)
                for exchange in self._config.exchanges
                for topic in self._config.topics
            ]
            server = bus.Server(transport, targets, self._config.pool, handle, unreadable)
            if not _answers(transport.addresses, transport.place, stop):
                return
            try:
                if server.begin(stop):
                    self._ready(f"notifications of {', '.join(self._config.exchanges)}: {transport.place}")
                    stop.wait()
            finally:
                server.end()
        finally:
            transport.close()

    def letter(self, message: Mapping[str, Any]) -> Letter:
        """The contents of a notification, or why it can't be read."""
        source, events, problem = NAME, [], None
        try:
            source = openstack.service_of(message.get("publisher_id"))
            kind = message.get("event_type")
            if not isinstance(kind, str) or not self._ignored.match(kind):
                events = openstack.events_of(message, now=time.time(), remembered=self._remembered)
        except BadInput as error:
            problem = str(error)
        except Exception as error:
            LOG.exception("a bug in imageflow, at a notification")
            problem = f"unexpected: {type(error).__name__}"
        return Letter(source, functools.partial(_bytes, message), events, problem)


def _answers(addresses: Sequence[tuple[str, int]], place: str, stop: Flag) -> bool:
    """Wait until one of the brokers takes a connection; -> False when `stop` was set first."""
    backoff = Backoff(*PAUSE)
    while addresses and not stop.is_set():
        for address in addresses:
            try:
                with socket.create_connection(address, timeout=5):
                    return True
            except OSError as error:
                LOG.warning("%s does not answer: %s", place, error)
        backoff.wait(stop)
    return not stop.is_set()


def _bytes(message: Mapping[str, Any]) -> bytes:
    """What is kept of an invalid notification."""
    told = {key: value for key, value in message.items() if not str(key).startswith("_context_")}
    try:
        return json.dumps(openstack.cleaned(told), sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):
        return openstack.without_secrets(repr(told).encode(errors="replace"))
