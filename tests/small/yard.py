"""A site where events cause builds: registered recipes, an inbox, a dispatcher, builds with the quick flow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imageflow.builds import engine
from imageflow.builds.conductor import Conductor
from imageflow.events.inbox import SqlInbox
from imageflow.model import Event, Outcome
from imageflow.rebuilds.dispatcher import Dispatcher
from tests.small.flow import Trace
from tests.small.site import Site

PUSH = Event("https://git.example/acme/infra", "1", "git.push", data={"repository": "infra", "ref": "refs/heads/main"})


class Yard:
    """A site with registered recipes, an inbox and a dispatcher."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.service = site.service
        self.inbox = SqlInbox(site.service.database)
        self.dispatcher = Dispatcher(
            self.service.config, self.service.database, self.service.submitter, self.service.checkouts, self.inbox
        )
        self.trace = Trace(site.folder / "trace")
        self.number = 0

    def register(self, text: str, name: str = "recipe") -> None:
        (self.site.folder / "motd").write_text("0")
        file = self.site.folder / f"{name}.yaml"
        file.write_text(textwrap.dedent(text))
        self.service.recipes.add(file)

    def push(self, *, changed: bool = True) -> int:
        """Add an event, and change an input; -> the event's seq."""
        self.number += 1
        if changed:
            (self.site.folder / "motd").write_text(str(self.number))
        [receipt] = self.inbox.receive([replace(PUSH, id=str(self.number))], listener="http")
        return receipt.event.seq

    def settle(self) -> list[str]:
        """Run until nothing is left to do; -> the images, in the order in which their builds began."""
        before = len(self.began)
        while True:
            self.dispatcher.once()
            if self.service.board.job_count == 0:
                return self.began[before:]
            self.work()

    def work(self) -> None:
        """Run a conductor until nothing is queued."""
        Conductor(self.service).run(lambda: self.service.board.job_count == 0)

    @property
    def began(self) -> list[str]:
        return [record["image"] for record in self.trace.read(began=True)]

    def outcomes(self, seq: int) -> dict[str, Outcome | None]:
        return {reaction.image: reaction.outcome for reaction in self.service.events.get(seq)[1]}

    def held(self) -> dict[str, str]:
        return {rebuild.image: rebuild.held or "" for rebuild in self.service.events.rebuilds()}


@contextmanager
def open_yard(folder: Path, database: str, monkeypatch: pytest.MonkeyPatch, **options: str) -> Iterator[Yard]:
    """Make the quick flow the flow of every method."""
    monkeypatch.setattr(engine, "factory_of", lambda method: "tests.small.quick.quick")
    elements = Path(__file__).parents[1] / "recipes" / "elements"
    usual = {"triggers__debounce": "0", "max_builds": "1", "dib__elements_path": str(elements)}
    with Site(folder, database=database, **{**usual, **options}) as site:
        yield Yard(site)
