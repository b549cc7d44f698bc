"""oslo.messaging's notification server, without its ways to lose, repeat or hide messages.

Seen with oslo.messaging 18.3, and tested with a real broker, so that an upgrade shows what has changed:

- the driver permanently rejects, and so drops, a message that it can't decode
- a malformed message makes its dispatcher raise, and is redelivered at once, endlessly
- a message whose acknowledgement got lost is recognised when redelivered, and then never acknowledged:
  each one takes a place of the prefetch count until none is left. Our inbox finds duplicates itself.
- starting and stopping wait for a broker that is down, without end
"""

from __future__ import annotations

import collections
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging.notify.listener import NotificationServer

from imageflow.background.flag import Flag
from imageflow.config.traffic import NotificationsConfig
from imageflow.errors import ConfigError, ImageflowError, Unavailable

LOG = logging.getLogger(__name__)
PRIORITIES = ("audit", "info", "warn", "error", "critical")  # not debug and sample
_GROUP = "oslo_messaging_rabbit"
_LONGEST = 5  # seconds between two attempts to reach the broker
_HEARTBEAT = 30  # seconds after which a silent broker counts as down
_STOPPING = 10.0  # seconds
_QUIET = ("oslo_messaging", "oslo.messaging", "amqp", "kombu")


class Transport:
    """The connection to the bus, with its own configuration: the process's is not ours to change."""

    def __init__(self, config: NotificationsConfig) -> None:
        """Raises ConfigError."""
        for name in _QUIET:  # below INFO they log whole messages, with the sender's token
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() < logging.INFO:
                logger.setLevel(logging.INFO)
        if not config.transport_url:
            raise ConfigError(
                "[notifications] transport_url is not set, and [listeners] enabled has 'notifications'",
                hint="such as rabbit://USER:PASSWORD@HOST:5672/",
            )
        conf = cfg.ConfigOpts()
        conf([], project="imageflow", default_config_files=[], default_config_dirs=[])
        try:
            url = oslo_messaging.TransportURL.parse(conf, config.transport_url)
            self.oslo = oslo_messaging.get_notification_transport(conf, url=config.transport_url)
        except oslo_messaging.DriverLoadFailure as error:
            raise ConfigError(f"[notifications] transport_url: there is no driver {error.driver!r}") from None
        except (oslo_messaging.MessagingException, cfg.Error, ValueError):
            raise ConfigError(
                "[notifications] transport_url is not the URL of a bus",
                hint="such as rabbit://USER:PASSWORD@HOST:5672/",
            ) from None  # the cause may show the password
        self.kind: str = url.transport
        self.addresses = [(host.hostname, host.port or 5672) for host in url.hosts]
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        self.place = f"{self.kind}://{hosts}/{url.virtual_host or ''}"
        if _GROUP in conf:
            for name, value in (
                ("amqp_durable_queues", config.durable),
                ("rabbit_qos_prefetch_count", config.prefetch),
                ("rabbit_interval_max", _LONGEST),
                ("heartbeat_timeout_threshold", _HEARTBEAT),
            ):
                conf.set_override(name, value, group=_GROUP)

    def close(self) -> None:
        if self.kind != "fake":  # its clean-up empties every exchange of the process
            self.oslo.cleanup()


class Server(NotificationServer):  # type: ignore[misc]
    """Passes messages to `handle`, in order, in batches of those available; acknowledges them when it returns True.

    `unreadable` gets bytes that can't be decoded, and the reason; False: they have to be redelivered.
    """

    def __init__(
        self,
        transport: Transport,
        targets: Sequence[Any],
        pool: str,
        handle: Callable[[Sequence[Mapping[str, Any]]], bool],
        unreadable: Callable[[bytes, str], bool],
    ) -> None:
        super().__init__(transport.oslo, list(targets), _Dispatcher(), "threading", True, pool)
        self._handle = handle
        self._arrived: collections.deque[Any] = collections.deque()
        self._unreadable = unreadable
        self._place = transport.place

    def begin(self, stop: Flag) -> bool:
        """Listen; -> False when `stop` was set before the broker answered. Raises ConfigError, Unavailable."""
        trouble: list[Exception] = []
        thread = _aside(functools.partial(self.start, override_pool_size=1), trouble)  # one: events keep their order
        while thread.is_alive() and not stop.is_set():
            thread.join(0.05)
        if trouble:
            raise _meaning(trouble[0], self._place) from None
        return not thread.is_alive()

    def end(self) -> None:
        """Finish the current message, and stop listening."""
        trouble: list[Exception] = []

        def stop_and_wait() -> None:
            self.stop()
            self.wait()

        thread = _aside(stop_and_wait, trouble)
        thread.join(_STOPPING)
        if thread.is_alive():
            LOG.info("%s does not answer; unacknowledged messages will be redelivered", self._place)

    def _on_incoming(self, incoming: Sequence[Any]) -> None:
        self._arrived.extend(incoming)
        super()._on_incoming(incoming)

    def _process_incoming(self, incoming: Sequence[Any]) -> None:
        together = [self._arrived.popleft() for _ in range(len(self._arrived))]
        if not together:
            return
        done = self._handle([one.message for one in together])
        for one in together:
            if done:
                one.acknowledge()
            else:
                one.requeue()

    def _create_listener(self) -> Any:
        listener = super()._create_listener()
        poll = getattr(listener, "_poll_style_listener", None)
        if (cache := getattr(poll, "msg_id_cache", None)) is not None:
            cache.prev_msgids = collections.deque(maxlen=0)
        for consumer in getattr(getattr(poll, "conn", None), "_consumers", ()):
            consumer._callback = functools.partial(self._received, consumer)
        return listener

    def _received(self, consumer: Any, raw: Any) -> None:
        """What the driver's consumer does with a message, except for one that it can't decode."""
        from oslo_messaging._drivers.impl_rabbit import RabbitMessage

        to_message = getattr(consumer.queue.channel, "message_to_python", None)
        message = to_message(raw) if to_message else raw
        try:
            consumer.callback(RabbitMessage(message))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
            if self._unreadable(body, f"not an oslo.messaging message: {type(error).__name__}"):
                message.ack()
            else:
                message.requeue()


class _Dispatcher:
    """What oslo.messaging's server asks for its priorities."""

    supported_priorities = PRIORITIES


def _aside(work: Callable[[], None], trouble: list[Exception]) -> threading.Thread:
    """Run work in a thread that may be abandoned."""

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - passed to the waiting thread
            trouble.append(error)

    thread = threading.Thread(target=run, name="notifications", daemon=True)
    thread.start()
    return thread


def _meaning(error: Exception, place: str) -> ImageflowError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "inequivalent arg 'durable'" in said:
        return ConfigError(
            f"{place}: the services' exchange has a different durability than ours",
            hint="set [notifications] durable as amqp_durable_queues is in the services",
        )
    if "ACCESS_REFUSED" in said or "NOT_ALLOWED" in said:
        return ConfigError(f"{place} refuses us", hint="check user, password and virtual host of transport_url")
    return Unavailable(f"{place}: {said}")
