"""From what is wanted to builds: reuse what is built, join what is being built, lay down the rest.

Build, flow and job come to be in one transaction, together with the answer to whoever asked.
"""

from __future__ import annotations

import contextlib
import secrets as random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Connection

from imageflow import intake
from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.errors import NotFound
from imageflow.estimate import typical_seconds
from imageflow.intake import Plan, Wanted
from imageflow.model import Build, BuildState, Submission
from imageflow.persistence import builds, outbox, reactions, registry, steps, versions
from imageflow.persistence.database import Database
from imageflow.stores import ImageRef, Store

if TYPE_CHECKING:
    from imageflow.catalogue import Catalogue
    from imageflow.persistence.flowstore import FlowStore
    from imageflow.persistence.jobboard import SqlJobBoard

PATIENCE = 10.0  # seconds that a request waits for a database that is away
Answer = Callable[[Connection, Submission], None]
There = Mapping[str, ImageRef | None]  # digest of a version -> what the store has of it


class Parts(Protocol):
    """What submitting needs; the service has it, and opens each at its first use."""

    @property
    def config(self) -> Config: ...
    @property
    def database(self) -> Database: ...
    @property
    def store(self) -> Store: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def images(self) -> Catalogue: ...
    @property
    def flows(self) -> FlowStore: ...
    @property
    def board(self) -> SqlJobBoard: ...


class Submitter:
    """Asks for image versions."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- of a recipe file --------------------------------------------------------------------------

    def plan(self, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> list[Plan]:
        """What `submit` would do, without doing it."""
        plans: dict[str, Plan] = {}
        for names, base in intake.batches(intake.bases(file, images, settings)):
            if base is not None and plans[base].verdict != "reuse":
                plans |= {name: intake.after(name, base) for name in names}
                continue
            for wanted in intake.wanted(
                self._parts.config, file, names, settings, base_of=self._base, learnt=self._learnt
            ):
                plans[wanted.image] = self.plan_of(wanted)
        return list(plans.values())

    def submit(
        self,
        file: Path,
        images: Sequence[str] = (),
        *,
        force: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> list[Submission]:
        """See Service.submit."""
        done: dict[str, Submission] = {}
        for names, base in intake.batches(intake.bases(file, images, settings)):
            if base is not None and (base not in done or done[base].build.state is not BuildState.SUCCEEDED):
                continue
            for wanted in intake.wanted(
                self._parts.config, file, names, settings, base_of=self._base, learnt=self._learnt
            ):
                done[wanted.image] = self.ask(wanted, force=force)
        return list(done.values())

    # -- of an image that is registered -------------------------------------------------------------

    def wanted(self, canonical: Mapping[str, object], folder: Path) -> Wanted:
        """A registered image as it would be built now; raises as `pins.pin`."""
        from imageflow.recipe import ImageRecipe

        image = ImageRecipe.from_json(canonical)
        return intake.wanted_image(self._parts.config, image, folder, self._base, self._learnt)

    # -- one image --------------------------------------------------------------------------------

    def plan_of(self, wanted: Wanted) -> Plan:
        """What asking for this would come to."""
        from imageflow.engine import outline

        flow = outline(wanted.method, wanted.canonical).steps
        there = self._look(wanted)
        with self._parts.database.read() as conn:
            holder = self._usable(builds.holder(conn, wanted.key), conn, there)
            before = builds.latest(conn, wanted.image)
            seconds = typical_seconds(steps.history(conn, wanted.image), [name for name, _title in flow])
        if holder is None:
            verdict, reason = "build", wanted.why(before)
        elif holder.state is BuildState.SUCCEEDED:
            verdict, reason = "reuse", _same(holder)
        else:
            verdict, reason = "join", _joined(holder)
        stages = intake.stage_plans(wanted, before, self._parts.compute.layers) if verdict == "build" else ()
        return Plan(
            wanted.image, wanted.method, wanted.key, verdict, reason, holder, wanted.pins, flow, seconds, stages
        )

    def ask(self, wanted: Wanted, *, force: bool = False, cause: str = "", answer: Answer | None = None) -> Submission:
        """Ask for one image version.

        `cause`: what happened that it is asked for, for the build's reason. `answer` is called in the same
        transaction as the build comes to be, or is found; what it raises undoes that.
        """
        there = self._look(wanted)
        if not force:  # most requests end here, without TaskFlow
            with self._parts.database.read() as conn:
                found = self._found(conn, wanted, there)
            if found is not None and answer is None:
                return found
        made = random.token_hex(6)  # the same one when the answer of a commit got lost

        def enlist(conn: Connection) -> Submission:
            submission = self._enlist(conn, wanted, force, made, cause, there)
            if answer is not None:
                answer(conn, submission)
            return submission

        return self._parts.database.transact(enlist, patience=PATIENCE)

    def supersede(self, conn: Connection, new: Build) -> None:
        """Take back the builds of the same image that only events asked for and that never began."""
        for old in builds.select(conn, image=new.image, states=[BuildState.QUEUED]):
            if old.id == new.id or old.started is not None or not reactions.is_asked_for(conn, old.id):
                continue
            if not self._parts.board.withdraw_in(conn, old.id):
                continue  # a conductor took it in this very moment
            error = f"superseded by build {new.id} before it began"
            builds.change(conn, old.id, to=BuildState.SUPERSEDED, ended=time.time(), error=error)
            builds.drop_claim(conn, old.id)
            self._parts.flows.delete(conn, old.flow)
            reactions.superseded(conn, old.id, new.id)
            outbox.announce_build(conn, self._parts.config.announce.targets, "error", old)

    def _base(self, image: str) -> str:
        """The database is opened when an image is made from another one, not before."""
        return self._parts.images.base(image)

    def _learnt(self, image: str) -> dict[str, str]:
        """What events said about an image's inputs; the database is opened for images that have triggers only."""
        with self._parts.database.read() as conn:
            return registry.learnt(conn, image)

    def _look(self, wanted: Wanted) -> There:
        """What the store has of the version that stands for this: asked before any transaction, for a cloud is slow."""
        with self._parts.database.read() as conn:
            holder = builds.holder(conn, wanted.key)
            version = versions.of(conn, holder.id) if holder is not None else None
        return {} if version is None else {version.digest: self._parts.store.find(version.digest)}

    def _found(self, conn: Connection, wanted: Wanted, there: There) -> Submission | None:
        holder = self._usable(builds.holder(conn, wanted.key), conn, there)
        return None if holder is None else self._answer(conn, holder, there)

    def _answer(self, conn: Connection, holder: Build, there: There) -> Submission:
        if holder.state is BuildState.SUCCEEDED:
            version = versions.of(conn, holder.id)
            ref = None if version is None else there.get(version.digest)
            if version is not None and ref is not None:
                version = replace(version, path=ref.path)
            return Submission(holder, "reused", _same(holder), version)
        return Submission(holder, "joined", _joined(holder))

    def _usable(self, holder: Build | None, conn: Connection, there: There) -> Build | None:
        """A finished build stands for its key only while its image is really in the store; one that came meanwhile is."""
        if holder is None or holder.state is not BuildState.SUCCEEDED:
            return holder
        version = versions.of(conn, holder.id)
        if version is None or version.state != "stored" or there.get(version.digest, version) is None:
            return None
        return holder

    def _enlist(
        self, conn: Connection, wanted: Wanted, force: bool, build_id: str, cause: str, there: There
    ) -> Submission:
        """Build, flow and job in one transaction, unless somebody was faster."""
        from imageflow import engine

        with contextlib.suppress(NotFound):
            made = builds.get(conn, build_id)
            return Submission(made, "created", made.reason)
        held = builds.holder(conn, wanted.key)
        usable = self._usable(held, conn, there)
        if held is not None and usable is None:
            builds.drop_claim(conn, held.id)
        reason = _unchanged(usable) if usable else wanted.why(builds.latest(conn, wanted.image))
        if force:
            reason = f"forced; {reason}"
        if cause:
            reason = f"{cause}: {reason}"
        build = Build(
            id=build_id,
            image=wanted.image,
            method=wanted.method,
            state=BuildState.QUEUED,
            reason=reason,
            key=wanted.key,
            flow=str(uuid.uuid4()),
            created=time.time(),
            forced=force,
            recipe=wanted.canonical,
            folder=str(wanted.folder),
            pins=wanted.pins,
        )
        while (holder := builds.claim_or_holder(conn, build)) is not None:
            if self._usable(holder, conn, there) is None:
                builds.drop_claim(conn, holder.id)
                continue
            if not force:
                return self._answer(conn, holder, there)
            builds.insert(conn, build, claim=False)
            break
        engine.enlist(conn, self._parts.flows, build)
        self._parts.board.post_in(conn, build.id, {})
        return Submission(build, "created", reason)


def _same(build: Build) -> str:
    return f"already built: {_unchanged(build)}"


def _unchanged(build: Build) -> str:
    return f"nothing that goes into it changed since build {build.id}"


def _joined(build: Build) -> str:
    return f"the same image is being built: build {build.id} is {build.state}"
