"""The façade: the command line and the API call this, and nothing below it.

Cheap to import and cheap to use for reading and for builds that are already there: TaskFlow, which
takes most of a second, is imported only when a flow is laid down or run.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sqlalchemy import Connection

from imageflow import drivers, stores
from imageflow.catalogue import Catalogue
from imageflow.compute import Compute, Layer
from imageflow.config import Config
from imageflow.errors import Conflict, NotFound
from imageflow.estimate import Estimate, estimate
from imageflow.intake import Plan
from imageflow.machines import Machines
from imageflow.model import (
    Build,
    BuildState,
    Conductor,
    Resource,
    Step,
    StepState,
    Submission,
    Wish,
)
from imageflow.outgoing import Outbox
from imageflow.persistence import builds, conductors, ledger, outbox, steps
from imageflow.persistence.database import Database
from imageflow.stores import Store
from imageflow.submission import PATIENCE, Submitter

if TYPE_CHECKING:
    from imageflow.happenings import Happenings
    from imageflow.hosted import Hosted
    from imageflow.persistence.flowstore import FlowStore
    from imageflow.persistence.jobboard import SqlJobBoard
    from imageflow.publications import Publications
    from imageflow.registry import Recipes

BOARD = "builds"
_WORKED_ON = (BuildState.QUEUED, BuildState.RUNNING, BuildState.REVERTING)


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of a build with their present states, and what waits for what."""

    build: Build
    nodes: tuple[tuple[str, str, StepState], ...]  # (name, title, state)
    edges: tuple[tuple[str, str], ...]


class Service:
    """Everything that can be asked of imageflow, over one database and one store."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def open(cls, config: Config) -> Self:
        """Nothing is opened or made before it is needed: a bad recipe leaves no trace."""
        return cls(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if "database" in self.__dict__:
            self.database.close()

    @functools.cached_property
    def database(self) -> Database:
        """Connected at the first use; an embedded one is made or upgraded on the way."""
        database = Database(self.config.database)
        database.ready()
        return database

    @functools.cached_property
    def store(self) -> Store:
        """Where images live."""
        return stores.store(self.config)

    @functools.cached_property
    def compute(self) -> Compute:
        """Where build machines run."""
        return self._compute(self.config)

    def _compute(self, config: Config) -> Compute:
        driver: Compute = drivers.load("compute", "imageflow.compute", config.compute)(config)
        return driver

    @functools.cached_property
    def flows(self) -> FlowStore:
        """TaskFlow's own tables."""
        from imageflow.persistence.flowstore import FlowStore

        return FlowStore(self.database)

    @functools.cached_property
    def board(self) -> SqlJobBoard:
        """Where conductors find their work."""
        from imageflow.persistence.jobboard import SqlJobBoard

        board = SqlJobBoard(BOARD, {"lease": self.config.conductor.lease}, database=self.database)
        board.connect()
        return board

    @functools.cached_property
    def images(self) -> Catalogue:
        """The image versions."""
        return Catalogue(self.config, self.database, self.store)

    @functools.cached_property
    def publications(self) -> Publications:
        """The image versions in other places than the store."""
        from imageflow.publications import Publications

        return Publications(self.config, self.database)

    @functools.cached_property
    def machines(self) -> Machines:
        """The machines of builds on this host; whoever sits at a terminal does not wait long for a cloud that is away."""
        if not self.compute.shared:
            return Machines(self.config, self.compute)
        return Machines(self.config, self._compute(self.config.impatient))

    @functools.cached_property
    def recipes(self) -> Recipes:
        """The recipes that events can build."""
        from imageflow.registry import Recipes

        return Recipes(self.config, self.database)

    @functools.cached_property
    def hosted(self) -> Hosted:
        """Those of them that live in git."""
        from imageflow.hosted import Hosted

        return Hosted(self.config, self.database)

    @functools.cached_property
    def events(self) -> Happenings:
        """What came in, and what came of it."""
        from imageflow.happenings import Happenings

        return Happenings(self.config, self.database, self.submitter)

    @functools.cached_property
    def outbox(self) -> Outbox:
        """What others were told, or are still to be."""
        return Outbox(self.database)

    @functools.cached_property
    def submitter(self) -> Submitter:
        """Asks for image versions."""
        return Submitter(self)

    # -- asking for builds -----------------------------------------------------------------------

    def plan(self, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> list[Plan]:
        """What `submit` would do, without doing it."""
        return self.submitter.plan(file, images, settings)

    def submit(
        self,
        file: Path,
        images: Sequence[str] = (),
        *,
        force: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> list[Submission]:
        """Ask for image versions: what is built is reused, what is being built is joined, the rest is queued.

        An image that is made from another one of them is left out while that one is not finished: ask for it again then.
        Raises RecipeError, and Unavailable when something to pin does not answer; then nothing was changed.
        """
        return self.submitter.submit(file, images, force=force, settings=settings)

    # -- builds ----------------------------------------------------------------------------------

    def builds(self, *, image: str | None = None, states: Collection[BuildState] = (), limit: int = 50) -> list[Build]:
        """Newest first, without their recipes and pins."""
        with self.database.read() as conn:
            return builds.select(conn, image=image, states=states, limit=limit)

    def build(self, build_id: str) -> Build:
        """By id or a unique beginning of it."""
        with self.database.read() as conn:
            return builds.get(conn, build_id)

    def steps(self, build_id: str) -> list[Step]:
        """Every attempt of every step, in the order they ran."""
        with self.database.read() as conn:
            return steps.of(conn, builds.get(conn, build_id).id)

    def estimate(self, build_id: str) -> Estimate:
        """How far a build is, and how long it will take, from this image's earlier builds."""
        with self.database.read() as conn:
            build = builds.get(conn, build_id)
            return estimate(build, steps.of(conn, build.id), steps.history(conn, build.image), time.time())

    def log_path(self, build_id: str) -> Path:
        """The log of a build, on the machine that runs it; it may not be there yet."""
        return self.config.logs_dir / f"{build_id}.log"

    def graph(self, build_id: str) -> Graph:
        """The flow of a build with the present state of each step."""
        from imageflow.engine import outline

        with self.database.read() as conn:
            build = builds.get(conn, build_id)
            now = {step.name: step.state for step in steps.of(conn, build.id)}  # the last attempt of each wins
        flow = outline(build.method, build.recipe)
        nodes = tuple((name, title, now.get(name, StepState.PENDING)) for name, title in flow.steps)
        return Graph(build, nodes, flow.edges)

    def resume(self, build_id: str) -> Build:
        """Let a paused build go on from its failed step."""
        tried = False

        def resume(conn: Connection) -> Build:
            nonlocal tried
            build = builds.get(conn, build_id)
            if tried and build.state in (BuildState.QUEUED, BuildState.RUNNING):
                return build  # it is done, only the answer of the commit got lost
            if not builds.change(
                conn,
                build.id,
                to=BuildState.QUEUED,
                frm=(BuildState.PAUSED,),
                paused=None,
                error=None,
                hint=None,
                deadline=None,
            ):
                raise Conflict(f"build {build.id} is {build.state}, not paused", hint=_way_on(build))
            self.flows.reset_failed(conn, build.flow)
            self.board.post_in(conn, build.id, {})
            outbox.announce_build(conn, self.config.announce.targets, "resume", build)
            tried = True
            return builds.get(conn, build.id)

        return self.database.transact(resume, patience=PATIENCE)

    def abort(self, build_id: str) -> Build:
        """Give a build up: everything it made is removed."""
        return self._end(build_id, Wish.ABORT)

    def cancel(self, build_id: str) -> Build:
        """Stop a build, its running step too: everything it made is removed."""
        return self._end(build_id, Wish.CANCEL)

    def _end(self, build_id: str, wish: Wish) -> Build:
        tried = False

        def end(conn: Connection) -> Build:
            nonlocal tried
            build = builds.get(conn, build_id)
            if tried and build.wish is wish and build.state is not BuildState.PAUSED:
                return build  # it is done, only the answer of the commit got lost
            if build.state.ended:
                raise Conflict(f"build {build.id} has ended already: {build.state}", hint=_way_on(build))
            if build.wish is not None and build.state is not BuildState.PAUSED:  # paused: its revert hit a bug
                return build
            if build.state is BuildState.QUEUED and build.started is None and self.board.withdraw_in(conn, build.id):
                builds.change(conn, build.id, to=wish.outcome, wish=wish, ended=time.time())  # it has made nothing yet
                builds.drop_claim(conn, build.id)
                self.flows.delete(conn, build.flow)
                outbox.announce_build(conn, self.config.announce.targets, "error", build)
            elif builds.change(
                conn, build.id, to=BuildState.REVERTING, frm=(BuildState.PAUSED,), wish=wish, paused=None
            ):
                self.board.post_in(conn, build.id, {})
            elif not builds.change(conn, build.id, frm=_WORKED_ON, wish=wish):  # its conductor sees it, or the next one
                return end(conn)  # it was paused, or has ended, in this very moment
            tried = True
            return builds.get(conn, build.id)

        return self.database.transact(end, patience=PATIENCE)

    # -- operating -------------------------------------------------------------------------------

    def resources(self, *, everything: bool = False) -> list[Resource]:
        """What builds made and have not removed yet; with `everything`, also what is gone."""
        with self.database.read() as conn:
            return ledger.select(conn, open_only=not everything)

    def reap(self) -> list[tuple[Resource, str | None]]:
        """Remove what ended builds left on this machine; -> each with None or why it is still there."""
        from imageflow.janitor import Janitor

        return Janitor(self.database, self.config, self.store, self.board, self.compute).round()

    def collect_layers(self, *, everything: bool = False) -> Sequence[Layer]:
        """Remove the layers past their limits, or all that no build needs now; -> what was removed."""
        return self.machines.collect(self._is_active, everything=everything)

    def _is_active(self, build_id: str) -> bool:
        """Whether a build may need what it holds; one that nobody here knows may be another imageflow's."""
        try:
            return not self.build(build_id).state.ended
        except NotFound:
            return self.compute.shared

    def conductors(self) -> list[Conductor]:
        """Those whose heartbeat is good."""
        with self.database.read() as conn:
            return conductors.living(conn)

    def check(self) -> list[str]:
        """How the database differs from what this version of imageflow needs; [] when it doesn't."""
        return self.database.check()


def _way_on(build: Build) -> str:
    if build.state is BuildState.PAUSED:
        return f"'imageflow build resume {build.id}' or 'imageflow build abort {build.id}'"
    if build.state.ended:
        return "create the build again"
    return f"see 'imageflow build show {build.id}'"


def open_for_upgrade(config: Config) -> Database:
    """The database as it is, for `db upgrade` and `db check`."""
    return Database(config.database)
