"""Events as people look at them: what came in, what came of it, what one would do; and sending one by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from imageflow import lineage
from imageflow.cloudevent import OWN, own
from imageflow.config import Config
from imageflow.errors import BadInput, ImageflowError, NotFound
from imageflow.hosted import Hosted
from imageflow.inbox import UNREADABLE, SqlInbox
from imageflow.intake import Plan
from imageflow.matching import Match, match
from imageflow.model import Event, Outcome, Reaction, Rebuild, Receipt, Verdict
from imageflow.persistence import events, observations, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.submission import Submitter
from imageflow.triggers import PUBLISH

PATIENCE = 10.0  # seconds that a request waits for a database that is away


@dataclass(frozen=True, slots=True)
class Consequence:
    """What an event would do to one image."""

    image: str
    recipe: str  # the registered recipe that has it
    reason: str
    verdict: str  # build, reuse, join, refused; after: when what it stands on has a new version
    detail: str
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What an event would do."""

    verdict: str  # matched, no trigger, duplicate
    reason: str | None
    consequences: tuple[Consequence, ...]


class Happenings:
    """The inbox, for people."""

    def __init__(self, config: Config, database: Database, submitter: Submitter) -> None:
        self._config = config
        self._database = database
        self._submitter = submitter
        self._hosted = Hosted(config, database)

    def send(self, batch: Sequence[Event]) -> list[Receipt]:
        """Put events into the inbox; whoever serves acts on them. Raises BadInput."""
        return SqlInbox(self._database).receive(batch, listener="cli")

    def select(
        self,
        *,
        type: str | None = None,
        verdict: Verdict | None = None,
        waiting: bool = False,
        limit: int = 50,
    ) -> list[Event]:
        """Events, newest first, with the verdicts as they are now."""
        with self._database.read() as conn:
            wanted = Verdict.MATCHED if verdict is Verdict.SUPERSEDED else verdict
            found = events.select(conn, type=type, verdict=wanted, waiting=waiting, limit=limit)
            return [event for event in self._judged(conn, found) if verdict in (None, event.verdict)]

    def get(self, seq: int) -> tuple[Event, list[Reaction]]:
        """An event and what each image made of it. Raises NotFound."""
        with self._database.read() as conn:
            [event] = self._judged(conn, [events.get(conn, seq)])
            return event, reactions.of_events(conn, [seq])

    @staticmethod
    def _judged(conn: Connection, found: Iterable[Event]) -> list[Event]:
        """With the verdict `superseded` where each build that an event asked for was replaced before it began."""
        found = list(found)
        outcomes: dict[int, set[Outcome | None]] = {}
        for reaction in reactions.of_events(conn, [event.seq for event in found]):
            outcomes.setdefault(reaction.event, set()).add(reaction.outcome)
        gone = {seq for seq, each in outcomes.items() if each == {Outcome.SUPERSEDED}}
        return [replace(event, verdict=Verdict.SUPERSEDED) if event.seq in gone else event for event in found]

    def reactions(self, seqs: Sequence[int]) -> list[Reaction]:
        """What images made of these events."""
        with self._database.read() as conn:
            return reactions.of_events(conn, seqs)

    def of_build(self, build_id: str) -> list[tuple[Event, Reaction]]:
        """The events that a build answers, newest first."""
        with self._database.read() as conn:
            return [(events.get(conn, one.event), one) for one in reactions.of_build(conn, build_id)]

    def replay(self, seq: int) -> Event:
        """Look at an event again, as if it had just come. Raises NotFound, and BadInput for one that nobody can read."""

        def again(conn: Connection) -> Event:
            event = events.get(conn, seq)
            if event.type == UNREADABLE:
                raise BadInput(
                    f"event {seq} can't be read: {event.reason}", hint="send it again as its sender means it"
                )
            events.reopen(conn, seq)
            return event

        return self._database.transact(again, patience=PATIENCE)

    def publication(self, build_id: str) -> int | None:
        """The event that says that a build's image is published; None when it is not."""
        with self._database.read() as conn:
            return events.known(conn, OWN, f"publish:{build_id}")

    def refusals(self) -> list[tuple[str, str, int, float]]:
        """What was refused at the door: (endpoint, reason, how often, when last)."""
        with self._database.read() as conn:
            return observations.refusals_of(conn)

    # -- what waits ---------------------------------------------------------------------------------

    def rebuilds(self) -> list[Rebuild]:
        """The images that events asked to be built again and that are no builds yet, longest first."""
        with self._database.read() as conn:
            return rebuilds.select(conn)

    def release(self, image: str) -> Rebuild:
        """Let a rebuild wait for nobody. Raises NotFound."""

        def release(conn: Connection) -> Rebuild:
            if not rebuilds.force(conn, image):
                raise NotFound(f"no event asks for {image!r} to be built again", hint="see 'imageflow rebuild list'")
            return rebuilds.select(conn, image)[0]

        return self._database.transact(release, patience=PATIENCE)

    def drop(self, image: str) -> int:
        """Forget what events asked of an image; -> how many. Raises NotFound."""

        def drop(conn: Connection) -> int:
            count = reactions.drop(conn, image, "dropped by an operator")
            if not count:
                raise NotFound(f"no event asks for {image!r} to be built again", hint="see 'imageflow rebuild list'")
            rebuilds.close(conn, image)
            return count

        return self._database.transact(drop, patience=PATIENCE)

    # -- what would be -----------------------------------------------------------------------------

    def simulate(self, event: Event) -> Simulation:
        """What an event would do, without doing it."""
        if own(event.source) and event.type != PUBLISH:
            raise BadInput(f"the event says that it comes from {event.source!r}, which is imageflow itself")
        with self._database.read() as conn:
            known = events.known(conn, event.source, event.id)
            matches, why_none = match(conn, event)
            graph = registry.graph(conn)
        if known is not None:
            why = f"it is event {known} already"
            return Simulation("duplicate", why, ())
        if not matches:
            return Simulation("no trigger", why_none, ())
        wanted = {one.image: one for one in matches}
        below = {name for image in wanted for name in lineage.descendants(graph, image)} - wanted.keys()
        found = [self._consequence(wanted[name]) for name in lineage.order(graph) if name in wanted]
        if any(one.verdict == "build" for one in found):
            found += [self._later(name, graph) for name in lineage.order(graph) if name in below]
        return Simulation("matched", None, tuple(found))

    def _consequence(self, one: Match) -> Consequence:
        with self._database.read() as conn:
            recipe, canonical = registry.of_image(conn, one.image)
        try:
            plan = self._submitter.plan_of(self._submitter.wanted(canonical, self._hosted.folder(recipe)))
        except ImageflowError as error:
            return Consequence(one.image, recipe.name, one.reason, "refused", str(error))
        return Consequence(one.image, recipe.name, one.reason, plan.verdict, plan.reason, plan)

    def _later(self, image: str, graph: dict[str, list[str]]) -> Consequence:
        with self._database.read() as conn:
            recipe, _canonical = registry.of_image(conn, image)
        parents = " and ".join(graph[image])
        return Consequence(image, recipe.name, f"it stands on {parents}", "after", f"when {parents} has a new content")
