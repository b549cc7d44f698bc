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
from imageflow.access.tokens import Tokens
from imageflow.api.server import HttpListener
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import events, refusals
from imageflow.registry.watched import SqlWatched
from imageflow.service import Service
from tests.samples.webhook_senders import SECRETS

TOKEN = "events-token-7531"
AUTHORISED = {"authorization": f"Bearer {TOKEN}"}
JSON = AUTHORISED | {"content-type": "application/cloudevents+json"}


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
        """The code of the error, which must have the form of all errors."""
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

    def token(self, role: str, project: str = "default") -> dict[str, str]:
        """The header of a client with this role."""
        token, _known = Tokens(self.database).create(f"test {role}", role, project=project)
        return {"x-auth-token": token}

    def stored(self) -> int:
        """How many events there are."""
        with self.database.read() as conn:
            return conn.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()

    def refused(self) -> dict[tuple[str, str], int]:
        """The refusals that were counted since the last call."""
        self.inbox.flush()
        with self.database.begin() as conn:
            rows = conn.execute(sa.select(refusals)).all()
            conn.execute(sa.delete(refusals))
        return {(row.endpoint, row.reason): row.count for row in rows}


def configured(state: Path, **groups: Mapping[str, Any]) -> Config:
    """A configuration with a token, every forge's secret, a private port, and rates that no test reaches."""
    config = configuration.load([os.devnull], str(state))
    changes: dict[str, dict[str, Any]] = {
        "api": {"listen": "127.0.0.1:0", "rate": "1000000/second"},
        "webhooks": dict(SECRETS),
        "events": {"token": TOKEN},
    }
    for name, values in groups.items():
        changes.setdefault(name, {}).update(values)
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    )


@contextlib.contextmanager
def serving(config: Config) -> Iterator[Site]:
    """Run the listener in a thread; -> its site."""
    with Database(config.database) as database, Service.open(config) as service:
        schema.upgrade(database)
        inbox, ready, stop = SqlInbox(database), threading.Event(), Flag()
        said: list[str] = []
        errors: list[BaseException] = []

        def listening(url: str) -> None:
            said.append(url)
            ready.set()

        def run() -> None:
            try:
                HttpListener(Surroundings(config, inbox, SqlWatched(database), listening, service)).run(stop)
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
    """`python -m tests.servers.http_listener STATE_DIR`: prints its URL, and goes on until it is killed."""
    with serving(configured(Path(sys.argv[1]))) as site:
        print(site.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
