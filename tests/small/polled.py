"""A site for tests of pollers: registered recipes, an inbox, and what was seen, in a real database."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow import config
from imageflow.background.flag import Flag
from imageflow.events import triggers
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Listener, Surroundings
from imageflow.model import Event
from imageflow.persistence import events, schema
from imageflow.persistence.database import Database
from imageflow.registry.recipes import Recipes
from imageflow.registry.watched import SqlWatched

IMAGE = """
  - name: {name}
    method: dib
    dib: {{elements: [debian-minimal], types: [qcow2]}}
    on: [{on}]
"""


GIT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


def git(*words: object, at: Path | None = None) -> str:
    done = subprocess.run(
        ["git", *map(str, words)], cwd=at, env=GIT, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def images(**on: str) -> str:
    """A recipe file's text: images by name, each with the entries of its `on:`."""
    return "images:" + "".join(IMAGE.format(name=name.replace("_", "-"), on=text) for name, text in on.items())


class Site:
    """One imageflow: its database is SQLite in a folder of its own, unless one is given."""

    def __init__(self, folder: Path, url: str | None = None, settings: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "imageflow.conf"
        connection = url or f"sqlite:///{folder}/imageflow.db"
        file.write_text(
            f"[DEFAULT]\nstate_dir = {folder / 'state'}\n[database]\nconnection = {connection}\n{settings}\n"
        )
        self.config = config.load([str(file)])
        self.database = Database(connection)
        schema.upgrade(self.database)
        self.inbox = SqlInbox(self.database)
        self.watched = SqlWatched(self.database)
        self.told = ""  # what the last listener reported when it was ready

    def register(self, text: str, name: str = "recipe") -> Path:
        """Register a recipe, or its next version; -> its file."""
        file = self.folder / f"{name}.yaml"
        file.write_text(text)
        Recipes(self.config, self.database).add(file)
        return file

    def events(self, kind: str = "") -> list[Event]:
        """The events of the inbox, in the order they came."""
        with self.database.read() as conn:
            found = events.select(conn, limit=100_000)
        return sorted((event for event in found if event.type.startswith(kind)), key=lambda event: event.seq)

    def asked_for(self, event: Event) -> list[str]:
        """The images whose triggers the event fulfils."""
        kinds = ("schedule", "image", "event", "git", "watch")
        found = [trigger for kind in kinds for trigger in self.watched.triggers(kind)]
        return sorted({trigger.image for trigger in found if triggers.explain(trigger, event)})

    def around(self, ready: Callable[[str], None] = lambda _what: None) -> Surroundings:
        return Surroundings(self.config, self.inbox, self.watched, ready)

    @contextlib.contextmanager
    def running(self, make: Callable[[Surroundings], Listener]) -> Iterator[Listener]:
        """Run a listener in a thread until the end of the block, which raises what the listener raised."""
        stop, ready = Flag(), threading.Event()

        def told(what: str) -> None:
            self.told = what
            ready.set()

        listener = make(self.around(told))
        errors: list[BaseException] = []

        def run() -> None:
            try:
                listener.run(stop)
            except BaseException as error:
                errors.append(error)
                ready.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(30)
            yield listener
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive(), "the listener does not end"
        if errors:
            raise errors[0]


def until(what: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
