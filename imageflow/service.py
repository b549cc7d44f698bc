"""The façade that the command line and the API call; nothing below imports it.

Cheap to import, and cheap for reading and for builds that already exist: TaskFlow, which takes most
of a second to import, is loaded only when a flow is laid down or run, and each part when it is first used.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from imageflow.config import Config
from imageflow.errors import NotFound, Refused
from imageflow.host import private
from imageflow.host.buildlog import log_path
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
from imageflow.persistence import builds, conductors, ledger, schema, steps
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST

if TYPE_CHECKING:
    from imageflow.access.tokens import Tokens
    from imageflow.announce.outbox import Outbox
    from imageflow.builds.estimate import Estimate
    from imageflow.builds.machines import Machines
    from imageflow.builds.submission import Submitter
    from imageflow.builds.wanted import Plan
    from imageflow.compute import Compute, Layer
    from imageflow.images.catalogue import Catalogue
    from imageflow.images.publications import Publications
    from imageflow.persistence.flowstore import FlowStore
    from imageflow.persistence.jobboard import SqlJobBoard
    from imageflow.rebuilds.operations import Events
    from imageflow.recipe import Recipe
    from imageflow.registry.checkouts import Checkouts
    from imageflow.registry.git_recipes import GitRecipes
    from imageflow.registry.images import RegisteredImages
    from imageflow.registry.recipes import Recipes
    from imageflow.stores import Store
    from imageflow.wants.catalog import Catalog
    from imageflow.wants.requests import Requests

BOARD = "builds"


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of a build with their current states, and their dependencies."""

    build: Build
    nodes: tuple[tuple[str, str, StepState], ...]  # (name, title, state)
    edges: tuple[tuple[str, str], ...]


class Service:
    """Everything imageflow can be asked to do, over one database and one store."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def open(cls, config: Config) -> Self:
        """Opens and creates nothing before it is needed: a bad recipe leaves no trace."""
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
        """Connected at first use; an embedded database is created or upgraded on the way."""
        private.seal(self.config.state_dir, self.config.store_path)
        database = Database(self.config.database)
        schema.ready(database)
        private.seal(self.config.state_dir, self.config.store_path)  # it may have been made just now
        return database

    @functools.cached_property
    def store(self) -> Store:
        """Where images live."""
        from imageflow import stores

        return stores.store(self.config)

    @functools.cached_property
    def compute(self) -> Compute:
        """Where build machines run."""
        return self._compute(self.config)

    def machine_notice(self) -> str:
        """What an operator must know of machines here before they run; '' for nothing."""
        return self.compute.notice()

    def dib_refused(self) -> Refused | None:
        """Why this process can build nothing by the method dib; None when it may."""
        from imageflow.dib import preflight

        return preflight.refused()

    def _compute(self, config: Config) -> Compute:
        from imageflow.config import drivers

        driver: Compute = drivers.load("compute", "imageflow.compute", config.compute)(config)
        return driver

    @functools.cached_property
    def flows(self) -> FlowStore:
        """TaskFlow's own tables."""
        from imageflow.persistence.flowstore import FlowStore

        return FlowStore(self.database)

    @functools.cached_property
    def board(self) -> SqlJobBoard:
        """Where conductors find work."""
        from imageflow.persistence.jobboard import SqlJobBoard

        board = SqlJobBoard(BOARD, {"lease": self.config.conductor.lease}, database=self.database)
        board.connect()
        return board

    @functools.cached_property
    def images(self) -> Catalogue:
        """The image versions."""
        from imageflow.images.catalogue import Catalogue

        return Catalogue(self.config, self.database, self.store)

    @functools.cached_property
    def publications(self) -> Publications:
        """The image versions in places other than the store."""
        from imageflow.images.publications import Publications

        return Publications(self.config, self.database)

    @functools.cached_property
    def machines(self) -> Machines:
        """Machines of builds on this host; an interactive user does not wait long for a cloud that is down."""
        from imageflow.builds.machines import Machines

        if not self.compute.shared:
            return Machines(self.config, self.compute)
        return Machines(self.config, self._compute(self.config.impatient))

    @functools.cached_property
    def recipes(self) -> Recipes:
        """The registered recipes, which events can build."""
        from imageflow.registry.recipes import Recipes

        return Recipes(self.config, self.database)

    @functools.cached_property
    def git_recipes(self) -> GitRecipes:
        """The registered recipes that live in git."""
        from imageflow.registry.git_recipes import GitRecipes

        return GitRecipes(self.config, self.database)

    @functools.cached_property
    def checkouts(self) -> Checkouts:
        """Local checkouts of the recipes that live in git."""
        from imageflow.registry.checkouts import Checkouts

        return Checkouts(self.config, self.database)

    @functools.cached_property
    def events(self) -> Events:
        """The events that arrived, and their outcomes."""
        from imageflow.rebuilds.operations import Events

        return Events(self.config, self.database, self.submitter, self.checkouts)

    @functools.cached_property
    def outbox(self) -> Outbox:
        """Announcements: delivered, or still to be delivered."""
        from imageflow.announce.outbox import Outbox

        return Outbox(self.database)

    @functools.cached_property
    def tokens(self) -> Tokens:
        """Our own tokens for the HTTP interface."""
        from imageflow.access.tokens import Tokens

        return Tokens(self.database)

    @functools.cached_property
    def submitter(self) -> Submitter:
        """Requests image versions."""
        from imageflow.builds.submission import Submitter

        return Submitter(self)

    # -- requesting builds -----------------------------------------------------------------------

    def plan(self, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> list[Plan]:
        """What `submit` would do, without doing it."""
        from imageflow import recipe

        return self.submitter.plan(recipe.load(file, settings, images), images)

    def submit(
        self,
        file: Path | Recipe,
        images: Sequence[str] = (),
        *,
        force: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> list[Submission]:
        """Request image versions of a recipe file, or of a loaded recipe: built ones are reused, running builds are joined, the rest is queued.

        An image based on another one of them is left out until that one is built: request it again then.
        Raises RecipeError, or Unavailable when an input to be pinned does not answer; nothing is changed then.
        """
        from imageflow.recipe import Recipe, load

        loaded = file if isinstance(file, Recipe) else load(file, settings, images)
        return self.submitter.submit(loaded, images, force=force)

    @functools.cached_property
    def registered_images(self) -> RegisteredImages:
        """The images of the registered recipes."""
        from imageflow.registry.images import RegisteredImages

        return RegisteredImages(self.config, self.database, self.submitter, self.checkouts)

    @functools.cached_property
    def catalog(self) -> Catalog:
        """What each `os` of a want stands for."""
        from imageflow.wants.catalog import Catalog

        return Catalog(self.config)

    @functools.cached_property
    def requests(self) -> Requests:
        """Who asks for which image, and what has become of it."""
        from imageflow.wants.requests import Requests

        return Requests(self.config, self.database, self.catalog, self.submitter, self.registered_images)

    # -- builds ----------------------------------------------------------------------------------

    def builds(
        self,
        *,
        image: str | None = None,
        states: Collection[BuildState] = (),
        limit: int = 50,
        before: int | None = None,
    ) -> list[Build]:
        """The newest first, without their recipes and pins; `before`: only those with a smaller `seq`."""
        with self.database.read() as conn:
            return builds.select(conn, image=image, states=states, limit=limit, before=before)

    def build(self, build_id: str) -> Build:
        """By id, or by a unique prefix of it."""
        with self.database.read() as conn:
            return builds.get(conn, build_id)

    def waits(self, build_id: str) -> str | None:
        """What a build waits for, or who was to work on it and is silent; None when it is worked on or needs no work."""
        from imageflow.builds import waiting

        with self.database.read() as conn:
            build = builds.get(conn, build_id)
            return waiting.told(conn, build, self.config.host, self.config.conductor.lease)

    def silent(self, listed: Sequence[Build]) -> dict[str, str]:
        """Of these builds those whose conductor gives no sign of life: id -> who it is, and since when."""
        from imageflow.persistence import waiting

        with self.database.read() as conn:
            return waiting.silent(conn, listed, self.config.host, self.config.conductor.lease)

    def steps(self, build_id: str) -> list[Step]:
        """Every attempt of every step, in execution order."""
        with self.database.read() as conn:
            return steps.of(conn, builds.get(conn, build_id).id)

    def estimate(self, build_id: str) -> Estimate:
        """Progress and remaining time of a build, from this image's earlier builds."""
        from imageflow.builds.estimate import estimate

        with self.database.read() as conn:
            build = builds.get(conn, build_id)
            return estimate(build, steps.of(conn, build.id), steps.history(conn, build.image), time.time())

    def log_path(self, build_id: str) -> Path:
        """The log of a build, on the machine that runs it; the file may not exist yet."""
        return log_path(self.config.logs_dir, build_id)

    def graph(self, build_id: str) -> Graph:
        """The flow of a build with the current state of each step."""
        from imageflow.builds.engine import outline

        with self.database.read() as conn:
            build = builds.get(conn, build_id)
            now = {step.name: step.state for step in steps.of(conn, build.id)}  # the last attempt of each wins
        flow = outline(build.method, build.recipe)
        nodes = tuple((name, title, now.get(name, StepState.PENDING)) for name, title in flow.steps)
        return Graph(build, nodes, flow.edges)

    def resume(self, build_id: str) -> Build:
        """Resume a paused build at its failed step."""
        from imageflow.builds import transitions

        return transitions.resume(self, build_id, REQUEST)

    def abort(self, build_id: str) -> Build:
        """Abort a build: everything it made is removed."""
        from imageflow.builds import transitions

        return transitions.end(self, build_id, Wish.ABORT, REQUEST)

    def cancel(self, build_id: str) -> Build:
        """Cancel a build, including its running step: everything it made is removed."""
        from imageflow.builds import transitions

        return transitions.end(self, build_id, Wish.CANCEL, REQUEST)

    # -- operating -------------------------------------------------------------------------------

    def resources(self, *, everything: bool = False) -> list[Resource]:
        """What builds made and have not removed yet; with `everything`, also what is already removed."""
        with self.database.read() as conn:
            return ledger.select(conn, open_only=not everything)

    def reap(self) -> list[tuple[Resource, str | None]]:
        """Remove what ended builds left on this machine; -> each with None, or the reason why it still exists."""
        from imageflow.builds.janitor import Janitor

        return Janitor(self).round()

    def collect_layers(self, *, everything: bool = False) -> Sequence[Layer]:
        """Remove the layers past their limits, or all that no build needs now; -> the removed layers."""
        from imageflow.persistence.elapsed import Ages

        age = Ages(self.database, self.config.host).stretched(self.config.layers.max_age)
        return self.machines.collect(self._is_active, age, everything=everything)

    def _is_active(self, build_id: str) -> bool:
        """Whether a build may still need its resources; an unknown one may belong to another imageflow."""
        try:
            return not self.build(build_id).state.ended
        except NotFound:
            return self.compute.shared

    def conductors(self) -> list[Conductor]:
        """Conductors with a valid heartbeat."""
        with self.database.read() as conn:
            return conductors.living(conn, self.config.host)


def upgrade_database(config: Config) -> str:
    """Upgrade the database to the schema of this version of imageflow; -> its kind: sqlite, postgresql, mysql, mariadb."""
    with Database(config.database) as database:
        schema.upgrade(database)
        return database.dialect


def check_database(config: Config) -> tuple[str, list[str]]:
    """The kind of the database, and its differences from the schema of this version of imageflow."""
    with Database(config.database) as database:
        return database.dialect, schema.check(database)
