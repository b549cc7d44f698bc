"""The HTTP listener on a private port with a real inbox: in a thread of the test, or as a program that may be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from imageflow import config as configuration
from imageflow.api.server import HttpListener
from imageflow.config import Config
from imageflow.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.persistence.database import Database
from imageflow.persistence.tables import events, refusals
from imageflow.registry import SqlWatched
from imageflow.signals import Flag
from tests.webhook_senders import SECRETS

TOKEN = "events-token-7531"
JSON = {"content-type": "application/cloudevents+json"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of the error, which has to have the form that all errors have."""
        [error] = self.json["errors"]
        assert set(error) == {"request_id", "code", "status", "title", "detail"}
        assert error["status"] == self.status and error["request_id"] == self.headers["x-openstack-request-id"]
        return str(error["code"]).removeprefix("imageflow.")


@dataclass
class Site:
    """A listener that runs."""

    url: str
    config: Config
    database: Database
    inbox: SqlInbox

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port
        return port

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        with self.client() as client:
            return client(method, path, body, headers)

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A connection for many requests."""
        host = urlsplit(self.url).hostname
        assert host
        connection = http.client.HTTPConnection(host, self.port, timeout=60)

        def send(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

        try:
            yield send
        finally:
            connection.close()

    def stored(self) -> int:
        """How many events there are."""
        with self.database.read() as conn:
            return conn.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()

    def refused(self) -> dict[tuple[str, str], int]:
        """The refusals that were counted since the last look."""
        self.inbox.flush()
        with self.database.begin() as conn:
            rows = conn.execute(sa.select(refusals)).all()
            conn.execute(sa.delete(refusals))
        return {(row.endpoint, row.reason): row.count for row in rows}


def configured(state: Path, **groups: Mapping[str, Any]) -> Config:
    """A configuration with every forge's secret, a private port and no rate that a test would meet."""
    config = configuration.load([os.devnull], str(state))
    changes: dict[str, dict[str, Any]] = {
        "api": {"listen": "127.0.0.1:0", "rate": "1000000/second"},
        "webhooks": dict(SECRETS),
        "events": {"token": None},
    }
    for name, values in groups.items():
        changes.setdefault(name, {}).update(values)
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    )


@contextlib.contextmanager
def serving(config: Config) -> Iterator[Site]:
    """The listener in a thread; the site that it is."""
    with Database(config.database) as database:
        database.upgrade()
        inbox, ready, stop = SqlInbox(database), threading.Event(), Flag()
        said: list[str] = []
        errors: list[BaseException] = []

        def listening(url: str) -> None:
            said.append(url)
            ready.set()

        def run() -> None:
            try:
                HttpListener(Surroundings(config, inbox, SqlWatched(database), listening)).run(stop)
            except BaseException as error:
                errors.append(error)
            finally:
                ready.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(60)
            if errors:
                raise errors[0]
            yield Site(said[0], config, database, inbox)
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()


def main() -> None:
    """`python -m tests.http_server STATE_DIR`: prints its URL, and goes on until it is killed."""
    with serving(configured(Path(sys.argv[1]))) as site:
        print(site.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
