"""Notifications in the format of OpenStack's services, by oslo.messaging."""

from __future__ import annotations

import datetime
from typing import Any

import oslo_messaging
from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError
from oslo_config import cfg

from imageflow.announce import needed, payload
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable
from imageflow.model import Announcement

_ENVELOPE = 2.0  # the format of the driver 'messagingv2'


class NotificationAnnouncer:
    """Sends each announcement to TOPIC.info or TOPIC.error; the target has it when the broker confirms it.

    oslo.messaging's Notifier logs a failure to send and returns normally, so the message goes straight to
    the transport: in the Notifier's format, with the announcement's id as its message_id.
    """

    def __init__(self, config: Config) -> None:
        url = needed(config.announce.transport_url or config.notifications.transport_url, "transport_url")
        self._exchange = needed(config.announce.exchange, "exchange")
        self._topic = needed(config.announce.topic, "topic")
        self._host = config.host
        self._timeout = config.announce.timeout
        self._durable = config.announce.durable
        self._conf = cfg.ConfigOpts()  # our own: the global one is not ours to change
        self._conf([], project="imageflow", default_config_files=[], default_config_dirs=[])
        self._url = url
        try:
            self._place = _hosts(oslo_messaging.TransportURL.parse(self._conf, url))
            self._transport = self._open()
        except (oslo_messaging.MessagingException, ValueError):
            raise ConfigError(
                "[announce] transport_url is not the URL of a bus", hint="such as rabbit://USER:PASSWORD@HOST:5672/"
            ) from None  # the cause may show the password

    def _open(self) -> Any:
        try:
            transport = oslo_messaging.get_notification_transport(self._conf, url=self._url)
        except oslo_messaging.DriverLoadFailure as error:
            raise ConfigError(
                f"[announce] transport_url: there is no driver {error.driver!r}", hint="rabbit, kafka or fake"
            ) from None
        if "oslo_messaging_rabbit" in self._conf:
            for name, value in (
                ("amqp_durable_queues", self._durable),
                ("heartbeat_timeout_threshold", max(2, int(2 * self._timeout))),  # a broker that hangs counts as down
            ):
                self._conf.set_override(name, value, group="oslo_messaging_rabbit")
        return transport

    def send(self, announcement: Announcement) -> None:
        if self._transport is None:
            self._transport = self._open()
        topic = f"{self._topic}.{payload.priority(announcement).lower()}"
        target = oslo_messaging.Target(exchange=self._exchange, topic=topic)
        try:
            self._transport._send_notification(target, {}, message(announcement, self._host), _ENVELOPE, retry=0)
        except (oslo_messaging.MessagingException, KombuError, AMQPError, OSError) as error:
            self.close()
            raise Unavailable(f"{self._place} did not take the announcement: {_first_line(error)}") from error

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.cleanup()


def message(announcement: Announcement, host: str) -> dict[str, Any]:
    """The notification, in the format of oslo.messaging's Notifier."""
    moment = datetime.datetime.fromtimestamp(round(announcement.time, 6), datetime.UTC).replace(tzinfo=None)
    return {
        "message_id": announcement.id,
        "publisher_id": f"imageflow.{host}",
        "event_type": announcement.type,
        "priority": payload.priority(announcement),
        "payload": payload.versioned(announcement),
        "timestamp": str(moment),
    }


def _hosts(url: Any) -> str:
    """The part of a transport URL that messages may show."""
    return f"{url.transport}://{','.join(f'{host.hostname}:{host.port}' for host in url.hosts)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
