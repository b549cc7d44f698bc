"""Listens to what OpenStack's services say on their message bus (oslo.messaging notifications)."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import oslo_messaging

from imageflow.errors import BadInput, ImageflowError
from imageflow.listeners import Surroundings, bus, openstack
from imageflow.listeners.pause import Pause
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
NAME = "notifications"


class NotificationListener:
    """Each notification is acknowledged after the inbox has it, or after it is in quarantine."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._config = surroundings.config.notifications
        self._inbox = surroundings.inbox
        self._remembered = surroundings.config.events.retention
        patterns = (fnmatch.translate(glob.strip()) for glob in self._config.ignore)
        self._ignored = re.compile("|".join(patterns) or r"(?!)")
        self._stop = Flag()
        self._pause = Pause()

    def run(self, stop: Flag) -> None:
        """See Listener."""
        self._stop = stop
        transport = bus.Transport(self._config)
        try:
            targets = [
                oslo_messaging.Target(exchange=exchange, topic=topic)
                for exchange in self._config.exchanges
                for topic in self._config.topics
            ]
            server = bus.Server(transport, targets, self._config.pool, self.handle, self.unreadable)
            if not _answers(transport.addresses, transport.place, stop):
                return
            try:
                if server.begin(stop):
                    self._surroundings.ready(f"notifications of {', '.join(self._config.exchanges)}: {transport.place}")
                    stop.wait()
            finally:
                server.end()
        finally:
            transport.close()

    def handle(self, message: Mapping[str, Any]) -> bool:
        """Store what a notification tells; -> False when it has to come again."""
        return not self._stop.is_set() and self._stored(lambda: self._keep(message))

    def unreadable(self, raw: bytes, reason: str) -> bool:
        """Put bytes that oslo.messaging can't decode into quarantine; -> False when they have to come again."""
        return self._stored(lambda: self._inbox.quarantine(NAME, NAME, openstack.without_secrets(raw), reason))

    def _stored(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception as error:
            LOG.warning(
                "a notification could not be stored, and is asked for again: %s",
                error,
                exc_info=not isinstance(error, ImageflowError),
            )
            self._pause.wait(self._stop)
            return False
        self._pause.over()
        return True

    def _keep(self, message: Mapping[str, Any]) -> None:
        kind = message.get("event_type")
        if isinstance(kind, str) and self._ignored.match(kind):
            return
        try:
            events = openstack.events_of(message, now=time.time(), remembered=self._remembered)
            if events:
                self._inbox.receive(events, listener=NAME)
        except BadInput as error:
            self._inbox.quarantine(NAME, _speaker(message), _bytes(message), str(error))
        except ImageflowError:
            raise
        except Exception as error:
            LOG.exception("a notification that imageflow stumbles over")
            self._inbox.quarantine(NAME, _speaker(message), _bytes(message), f"unexpected: {type(error).__name__}")


def _answers(addresses: Sequence[tuple[str, int]], place: str, stop: Flag) -> bool:
    """Wait until one of the brokers takes a connection; -> False when `stop` was set first."""
    pause = Pause()
    while addresses and not stop.is_set():
        for address in addresses:
            try:
                with socket.create_connection(address, timeout=5):
                    return True
            except OSError as error:
                LOG.warning("%s does not answer: %s", place, error)
        pause.wait(stop)
    return not stop.is_set()


def _speaker(message: Mapping[str, Any]) -> str:
    try:
        return openstack.service_of(message.get("publisher_id"))
    except BadInput:
        return NAME


def _bytes(message: Mapping[str, Any]) -> bytes:
    """What is kept of a notification that is none."""
    told = {key: value for key, value in message.items() if not str(key).startswith("_context_")}
    try:
        return json.dumps(openstack.cleaned(told), sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):
        return openstack.without_secrets(repr(told).encode(errors="replace"))
