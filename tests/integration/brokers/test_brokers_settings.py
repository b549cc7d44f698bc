"""Options of the brokers' listeners that are missing or wrong, and what a real broker refuses, are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kombu
import pytest

from imageflow import config
from imageflow.background.flag import Flag
from imageflow.errors import ConfigError
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.listeners.amqp import AmqpListener
from imageflow.listeners.notifications import NotificationListener
from imageflow.persistence.database import Database
from tests.integration.broker_site import (
    settings,
    url_of,
)
from tests.servers.services import PASSWORD, RabbitMQ


@pytest.mark.parametrize(
    ("listener", "group", "options", "says"),
    [
        (NotificationListener, "notifications", {}, r"\[notifications\] transport_url is not set"),
        (NotificationListener, "notifications", {"transport_url": "nonsense"}, "not the URL of a bus"),
        (NotificationListener, "notifications", {"transport_url": f"magic://u:{PASSWORD}@h/"}, "no driver 'magic'"),
        (
            NotificationListener,
            "notifications",
            {"transport_url": f"rabbit://u:{PASSWORD}@h:x/"},
            "not the URL of a bus",
        ),
        (AmqpListener, "amqp", {}, r"\[amqp\] url is not set"),
        (AmqpListener, "amqp", {"url": f"magic://u:{PASSWORD}@h/"}, "not the URL of a broker"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, sqlite: Database, listener: Any, group: str, options: dict[str, str], says: str
) -> None:
    file = settings(tmp_path, url_of(sqlite), **{group: options})
    with pytest.raises(ConfigError, match=says) as caught:
        listener(Surroundings(config.load([str(file)]), SqlInbox(sqlite), None)).run(Flag())
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("wrong", ["password", "durability"])
def test_what_the_broker_refuses_is_said(tmp_path: Path, sqlite: Database, broker: RabbitMQ, wrong: str) -> None:
    def spoiled(url: str) -> str:
        return url.replace(PASSWORD, "wrong") if wrong == "password" else url

    file = settings(
        tmp_path,
        url_of(sqlite),
        notifications={"transport_url": spoiled(broker.bus), "durable": False},
        amqp={"url": spoiled(broker.url), "durable": False},
    )
    with kombu.Connection(broker.url) as connection:
        for name in ("glance", "imageflow.events"):
            kombu.Exchange(name, type="topic", durable=True)(connection.channel()).declare()
    for listener in (NotificationListener, AmqpListener):
        with pytest.raises(ConfigError, match="refuses us" if wrong == "password" else "durab") as caught:
            listener(Surroundings(config.load([str(file)]), SqlInbox(sqlite), None)).run(Flag())
        assert "wrong" not in str(caught.value)
