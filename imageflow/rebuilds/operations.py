"""Events for operators: what arrived, its outcome, what an event would do; and sending one by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy import Connection

from imageflow.builds.submission import Submitter
from imageflow.builds.wanted import Plan, PlanVerdict
from imageflow.config import Config
from imageflow.errors import BadInput, ImageflowError, NotFound
from imageflow.events.bound import Bound
from imageflow.events.inbox import UNREADABLE, SqlInbox
from imageflow.events.own import OWN, PUBLISH, own, published_id
from imageflow.model import Event, Outcome, Reaction, Rebuild, Receipt, Verdict
from imageflow.persistence import events, observations, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.rebuilds.matching import Match, match
from imageflow.registry import lineage
from imageflow.registry.checkouts import Checkouts
from imageflow.registry.images import RegisteredImages


class ConsequenceVerdict(StrEnum):
    """What an event would do for one image."""

    REUSE = PlanVerdict.REUSE
    JOIN = PlanVerdict.JOIN
    BUILD = PlanVerdict.BUILD
    REFUSED = "refused"  # the recipe can't be built as it stands
    AFTER = "after"  # known only when its base has a new version


@dataclass(frozen=True, slots=True)
class Consequence:
    """What an event would do to one image."""

    image: str
    recipe: str  # the registered recipe that contains it
    reason: str
    verdict: ConsequenceVerdict
    detail: str
    plan: Plan | None = None


class SimulationVerdict(StrEnum):
    """What would happen to an event."""

    MATCHED = Verdict.MATCHED
    NO_TRIGGER = Verdict.NO_TRIGGER
    DUPLICATE = "duplicate"  # it is already in the inbox


@dataclass(frozen=True, slots=True)
class Simulation:
    """What an event would do."""

    verdict: SimulationVerdict
    reason: str | None
    consequences: tuple[Consequence, ...]


class Events:
    """The inbox, for operators."""

    def __init__(self, config: Config, database: Database, submitter: Submitter, checkouts: Checkouts) -> None:
        self._config = config
        self._database = database
        self._submitter = submitter
        self._images = RegisteredImages(config, database, submitter, checkouts)

    def send(self, batch: Sequence[Event]) -> list[Receipt]:
        """Put events into the inbox; a serving process acts on them. Raises BadInput."""
        return SqlInbox(self._database, bound=Bound.of(self._config, self._database)).receive(batch, listener="cli")

    def select(
        self,
        *,
        type: str | None = None,
        verdict: Verdict | None = None,
        waiting: bool = False,
        limit: int = 50,
    ) -> list[Event]:
        """Events, newest first, with their current verdicts."""
        with self._database.read() as conn:
            wanted = Verdict.MATCHED if verdict is Verdict.SUPERSEDED else verdict
            found = events.select(conn, type=type, verdict=wanted, waiting=waiting, limit=limit)
            return [event for event in self._judged(conn, found) if verdict in (None, event.verdict)]

    def get(self, seq: int) -> tuple[Event, list[Reaction]]:
        """An event and the images' reactions to it. Raises NotFound."""
        with self._database.read() as conn:
            [event] = self._judged(conn, [events.get(conn, seq)])
            return event, reactions.of_events(conn, [seq])

    @staticmethod
    def _judged(conn: Connection, found: Iterable[Event]) -> list[Event]:
        """With the verdict `superseded` if every build that an event requested was replaced before it began."""
        found = list(found)
        outcomes: dict[int, set[Outcome | None]] = {}
        for reaction in reactions.of_events(conn, [event.seq for event in found]):
            outcomes.setdefault(reaction.event, set()).add(reaction.outcome)
        gone = {seq for seq, each in outcomes.items() if each == {Outcome.SUPERSEDED}}
        return [replace(event, verdict=Verdict.SUPERSEDED) if event.seq in gone else event for event in found]

    def reactions(self, seqs: Sequence[int]) -> list[Reaction]:
        """The images' reactions to these events."""
        with self._database.read() as conn:
            return reactions.of_events(conn, seqs)

    def of_build(self, build_id: str) -> list[tuple[Event, Reaction]]:
        """The events that a build answers, newest first."""
        with self._database.read() as conn:
            return [(events.get(conn, one.event), one) for one in reactions.of_build(conn, build_id)]

    def replay(self, seq: int) -> Event:
        """Process an event again, as if it had just arrived. Raises NotFound, and BadInput for an unreadable one."""

        def again(conn: Connection) -> Event:
            event = events.get(conn, seq)
            if event.type == UNREADABLE:
                raise BadInput(
                    f"event {seq} can't be read: {event.reason}", hint="send it again as its sender means it"
                )
            events.reopen(conn, seq)
            return event

        return self._database.transact(again, patience=REQUEST)

    def publication(self, build_id: str) -> int | None:
        """The event about the publication of a build's image; None when there is none."""
        with self._database.read() as conn:
            return events.known(conn, OWN, published_id(build_id))

    def refusals(self) -> list[tuple[str, str, int, float]]:
        """Refused requests: (endpoint, reason, count, time of the last one)."""
        with self._database.read() as conn:
            return observations.refusals_of(conn)

    # -- waiting rebuilds ---------------------------------------------------------------------------

    def rebuilds(self) -> list[Rebuild]:
        """The images that events want rebuilt and that have no build yet, longest wait first."""
        with self._database.read() as conn:
            return rebuilds.select(conn)

    def release(self, image: str) -> Rebuild:
        """Release a rebuild from waiting. Raises NotFound."""

        def release(conn: Connection) -> Rebuild:
            if not rebuilds.force(conn, image):
                raise NotFound(f"no event requests a rebuild of {image!r}", hint="see 'imageflow rebuild list'")
            return rebuilds.select(conn, image)[0]

        return self._database.transact(release, patience=REQUEST)

    def drop(self, image: str) -> int:
        """Drop the rebuild that events requested for an image; -> the number of reactions. Raises NotFound."""

        def drop(conn: Connection) -> int:
            count = reactions.drop(conn, image, "dropped by an operator")
            if not count:
                raise NotFound(f"no event requests a rebuild of {image!r}", hint="see 'imageflow rebuild list'")
            rebuilds.close(conn, image)
            return count

        return self._database.transact(drop, patience=REQUEST)

    # -- simulation --------------------------------------------------------------------------------

    def simulate(self, event: Event) -> Simulation:
        """What an event would do, without doing it."""
        if own(event.source) and event.type != PUBLISH:
            raise BadInput(f"the event says that it comes from {event.source!r}, which is imageflow itself")
        with self._database.read() as conn:
            known = events.known(conn, event.source, event.id)
            matches, why_none = match(conn, event)
            graph = registry.graph(conn)
        if known is not None:
            why = f"it is already event {known}"
            return Simulation(SimulationVerdict.DUPLICATE, why, ())
        if not matches:
            return Simulation(SimulationVerdict.NO_TRIGGER, why_none, ())
        wanted = {one.image: one for one in matches}
        below = {name for image in wanted for name in lineage.descendants(graph, image)} - wanted.keys()
        found = [self._consequence(wanted[name]) for name in lineage.order(graph) if name in wanted]
        if any(one.verdict is ConsequenceVerdict.BUILD for one in found):
            found += [self._later(name, graph) for name in lineage.order(graph) if name in below]
        return Simulation(SimulationVerdict.MATCHED, None, tuple(found))

    def _consequence(self, one: Match) -> Consequence:
        recipe, canonical = self._images.recipe(one.image)
        try:
            plan = self._submitter.plan_of(self._images.wanted(recipe, canonical))
        except ImageflowError as error:
            return Consequence(one.image, recipe.name, one.reason, ConsequenceVerdict.REFUSED, str(error))
        return Consequence(one.image, recipe.name, one.reason, ConsequenceVerdict(plan.verdict), plan.reason, plan)

    def _later(self, image: str, graph: dict[str, list[str]]) -> Consequence:
        with self._database.read() as conn:
            recipe, _canonical = registry.of_image(conn, image)
        parents = " and ".join(graph[image])
        return Consequence(
            image,
            recipe.name,
            f"it stands on {parents}",
            ConsequenceVerdict.AFTER,
            f"when the content of {parents} changes",
        )
