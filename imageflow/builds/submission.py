"""From requests to builds: reuse what is built, join what is being built, lay down the rest.

Build, flow and job are created in one transaction, together with the answer to the requester.
"""

from __future__ import annotations

import contextlib
import secrets as random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from imageflow.builds import transitions, waiting
from imageflow.builds.estimate import typical_seconds
from imageflow.builds.parts import Parts
from imageflow.builds.wanted import Plan, PlanVerdict, Wanted, after, bases, batches, stage_plans, wanted_image
from imageflow.errors import NotFound
from imageflow.model import Build, BuildState, Submission, SubmissionVerdict, Version, VersionState
from imageflow.persistence import builds, reactions, registry, requests, steps, versions
from imageflow.persistence.patience import REQUEST

if TYPE_CHECKING:
    from imageflow.recipe import ImageRecipe, Recipe

Answer = Callable[[Connection, Submission], None]


@dataclass(frozen=True, slots=True)
class _Holder:
    """The build that stands for a key."""

    build: Build
    version: Version | None  # the version it made, and where the store has it
    lost: bool  # it succeeded, but its version is no longer sound in the store

    @classmethod
    def of(cls, conn: Connection, build: Build | None, seen: _Holder | None = None) -> _Holder | None:
        """`seen`: the holder whose version was checked in the store; a version that appeared since is taken as present."""
        if build is None:
            return None
        if build.state is not BuildState.SUCCEEDED:
            return cls(build, None, False)
        version = versions.of(conn, build.id)
        if version is None or version.state is not VersionState.STORED:
            return cls(build, None, True)
        if seen is not None and seen.version is not None and seen.version.digest == version.digest:
            return cls(build, replace(version, path=seen.version.path), seen.lost)
        return cls(build, version, False)


class Submitter:
    """Requests image versions."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # -- of a recipe -------------------------------------------------------------------------------

    def plan(self, recipe: Recipe, images: Sequence[str] = ()) -> list[Plan]:
        """What `submit` would do, without doing it."""
        plans: dict[str, Plan] = {}
        picked = {image.name: image for image in recipe.pick(images)}
        for names, base in batches(bases(list(picked.values()))):
            if base is not None and plans[base].verdict is not PlanVerdict.REUSE:
                plans |= {name: after(name, base) for name in names}
                continue
            for wanted in [self._pinned(picked[name], recipe.folder) for name in names]:
                plans[wanted.image] = self.plan_of(wanted)
        return list(plans.values())

    def submit(self, recipe: Recipe, images: Sequence[str] = (), *, force: bool = False) -> list[Submission]:
        """See Service.submit."""
        done: dict[str, Submission] = {}
        picked = {image.name: image for image in recipe.pick(images)}
        for names, base in batches(bases(list(picked.values()))):
            if base is not None and (base not in done or done[base].build.state is not BuildState.SUCCEEDED):
                continue
            for wanted in [self._pinned(picked[name], recipe.folder) for name in names]:
                done[wanted.image] = self.ask(wanted, force=force)
        return list(done.values())

    def _pinned(self, image: ImageRecipe, folder: Path) -> Wanted:
        return wanted_image(self._parts.config, image, folder, self._base, self._learnt)

    # -- of a registered image ----------------------------------------------------------------------

    def wanted(self, canonical: Mapping[str, object], folder: Path) -> Wanted:
        """A registered image as it would be built now; raises the same errors as `wanted_image`."""
        from imageflow.recipe import ImageRecipe

        return self._pinned(ImageRecipe.from_json(canonical), folder)

    # -- one image --------------------------------------------------------------------------------

    def plan_of(self, wanted: Wanted) -> Plan:
        """What requesting this would do."""
        from imageflow.builds.engine import outline

        flow = outline(wanted.method, wanted.canonical).steps
        seen = self._look(wanted.key)
        with self._parts.database.read() as conn:
            before = builds.latest(conn, wanted.image)
            seconds = typical_seconds(steps.history(conn, wanted.image), [name for name, _title in flow])
        holder = None if seen is None or seen.lost else seen.build
        if holder is None:
            verdict, reason = PlanVerdict.BUILD, wanted.why(before)
        elif holder.state is BuildState.SUCCEEDED:
            verdict, reason = PlanVerdict.REUSE, _same(holder)
        else:
            verdict, reason = PlanVerdict.JOIN, _joined(holder)
        config = self._parts.config
        with self._parts.database.read() as conn:
            if verdict is PlanVerdict.JOIN and holder is not None:
                waits = waiting.told(conn, holder, config.host, config.conductor.lease)
            else:
                waits = waiting.expected(conn, config.host) if verdict is PlanVerdict.BUILD else None
        stages = stage_plans(wanted, before, self._parts.compute.layers) if verdict is PlanVerdict.BUILD else ()
        return Plan(
            wanted.image,
            wanted.method,
            wanted.key,
            verdict,
            reason,
            holder,
            wanted.pins,
            flow,
            seconds,
            stages,
            remarks=wanted.remarks,
            waits=waits,
        )

    def ask(self, wanted: Wanted, *, force: bool = False, cause: str = "", answer: Answer | None = None) -> Submission:
        """Request one image version.

        `cause`: what triggered the request, for the build's reason. `answer` is called in the transaction
        that creates or finds the build; an exception from it rolls that back.
        """
        seen = self._look(wanted.key)
        if seen is not None and not seen.lost and not force:  # most requests end here, without TaskFlow
            if answer is None:
                return _answer(seen)
            if seen.version is not None and (reused := self._reuse(seen, answer)) is not None:
                return reused
        made = random.token_hex(6)  # stays the same when the reply to a commit got lost

        def enlist(conn: Connection) -> Submission:
            submission = self._enlist(conn, wanted, force, made, cause, seen)
            if answer is not None:
                answer(conn, submission)
            return submission

        return self._parts.database.transact(enlist, patience=REQUEST)

    def _reuse(self, seen: _Holder, answer: Answer) -> Submission | None:
        """The answer that a version stands for, unless it was deleted just now."""
        submission = _answer(seen)

        def reuse(conn: Connection) -> Submission | None:
            if not versions.hold(conn, seen.build.id):
                return None
            answer(conn, submission)
            return submission

        return self._parts.database.transact(reuse, patience=REQUEST)

    def supersede(self, conn: Connection, new: Build) -> None:
        """Withdraw the builds of the same image that only events asked for and that never began."""
        for old in builds.select(conn, image=new.image, states=[BuildState.QUEUED]):
            if old.id == new.id or old.started is not None or not reactions.is_asked_for(conn, old.id):
                continue
            if requests.holding(conn, old.id) is not None:
                continue
            transitions.supersede(conn, self._parts, old, new)

    def _base(self, image: str) -> str:
        """The database is opened only for images based on another one."""
        return self._parts.images.base(image)

    def _learnt(self, image: str) -> dict[str, str]:
        """What events said about an image's inputs; the database is opened only for images with triggers."""
        with self._parts.database.read() as conn:
            return registry.learnt(conn, image)

    def _look(self, key: str) -> _Holder | None:
        """The build that holds a key; the store is asked for its version before any transaction, because a cloud is slow."""
        with self._parts.database.read() as conn:
            found = _Holder.of(conn, builds.holder(conn, key))
        if found is None or found.version is None or found.lost:
            return found
        ref = self._parts.store.find(found.version.digest)
        if ref is None:
            return replace(found, lost=True)
        return replace(found, version=replace(found.version, path=ref.path))

    def _enlist(
        self, conn: Connection, wanted: Wanted, force: bool, build_id: str, cause: str, seen: _Holder | None
    ) -> Submission:
        """Build, flow and job in one transaction, unless another process was faster."""
        from imageflow.builds import engine

        with contextlib.suppress(NotFound):
            made = builds.get(conn, build_id)
            return Submission(made, SubmissionVerdict.CREATED, made.reason)
        holder = _Holder.of(conn, builds.holder(conn, wanted.key), seen)
        if holder is not None and holder.lost:
            builds.drop_claim(conn, holder.build.id)
            holder = None
        reason = _unchanged(holder.build) if holder else wanted.why(builds.latest(conn, wanted.image))
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
        while (holder := _Holder.of(conn, builds.claim_or_holder(conn, build), seen)) is not None:
            if holder.lost:
                builds.drop_claim(conn, holder.build.id)
                continue
            if not force:
                return _answer(holder)
            builds.insert(conn, build, claim=False)
            break
        engine.enlist(conn, self._parts.flows, build)
        self._parts.board.post_in(conn, build.id, {})
        return Submission(build, SubmissionVerdict.CREATED, reason)


def _answer(holder: _Holder) -> Submission:
    if holder.build.state is BuildState.SUCCEEDED:
        return Submission(holder.build, SubmissionVerdict.REUSED, _same(holder.build), holder.version)
    return Submission(holder.build, SubmissionVerdict.JOINED, _joined(holder.build))


def _same(build: Build) -> str:
    return f"already built: {_unchanged(build)}"


def _unchanged(build: Build) -> str:
    return f"nothing that goes into it changed since build {build.id}"


def _joined(build: Build) -> str:
    return f"the same image is being built: build {build.id} is {build.state}"
