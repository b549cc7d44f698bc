"""The states of a build, and every transition between them; no other module writes a build's state.

    from       to                  by
    queued     running             take: a conductor has claimed it
               reverting           take, if it was asked to end after it had begun
               paused              pause, for a bug of ours before it ran
               aborted, cancelled  end, if it has made nothing yet
               superseded          supersede, if it never began
    running    succeeded           succeed
               paused              pause: a step failed
               reverting           begin_revert, or take after its conductor died: it was asked to end
               running             take, after its conductor died
               queued              hand_back, wait: there is no room for its machine
    paused     queued              resume
               reverting           end, give_up
    reverting  failed, aborted,    revert: as its wish says
               cancelled
               reverting           take, begin_revert: its conductor died
               paused              pause, for a bug of ours

Each is one transaction with all that belongs to it: the claim of the build's key, its flow, its job, and its announcements.
What a conductor writes proves its claim first, and a race lost to another transaction is retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from imageflow.builds.parts import Parts
from imageflow.errors import Conflict
from imageflow.events.own import published
from imageflow.model import Artifact, Build, BuildState, ResourceKind, Version, Wish
from imageflow.persistence import builds, events, leases, ledger, outbox, publications, reactions, steps, versions
from imageflow.persistence.driver_errors import Contention
from imageflow.stores import targets as places

if TYPE_CHECKING:
    from imageflow.persistence.claim import Claim
    from imageflow.tasks.results import PublicationResult

NEXT = {  # state -> the states that may follow it
    BuildState.QUEUED: {
        BuildState.RUNNING,
        BuildState.REVERTING,
        BuildState.PAUSED,
        BuildState.ABORTED,
        BuildState.CANCELLED,
        BuildState.SUPERSEDED,
    },
    BuildState.RUNNING: {
        BuildState.RUNNING,
        BuildState.QUEUED,
        BuildState.PAUSED,
        BuildState.REVERTING,
        BuildState.SUCCEEDED,
    },
    BuildState.PAUSED: {BuildState.QUEUED, BuildState.REVERTING},
    BuildState.REVERTING: {
        BuildState.REVERTING,
        BuildState.PAUSED,
        BuildState.FAILED,
        BuildState.ABORTED,
        BuildState.CANCELLED,
    },
}
_REVERT, _AGAIN = "VERY_HIGH", "HIGH"  # priorities on the board: reverts first, then what had begun
_WORKED_ON = (BuildState.QUEUED, BuildState.RUNNING, BuildState.REVERTING)


def _moved(
    conn: Connection,
    build_id: str,
    to: BuildState,
    frm: BuildState | None = None,
    *,
    unwished: bool = False,
    **values: Any,
) -> bool:
    """Change the state if `to` may follow the current one, or the current one is `frm`; -> whether it was changed."""
    before = [state for state, after in NEXT.items() if to in after and frm in (None, state)]
    assert before, (frm, to)
    return builds.change(conn, build_id, to, before, unwished=unwished, **values)


def _move(conn: Connection, build_id: str, to: BuildState, frm: BuildState | None = None, **values: Any) -> None:
    """Change the state. Raises Contention when another transaction was faster: the caller then reads again."""
    if not _moved(conn, build_id, to, frm, **values):
        state = builds.get(conn, build_id).state
        raise Contention(f"build {build_id} is {state}, and can't become {to}")


# -- written by the conductor ------------------------------------------------------------------------


def take(
    conn: Connection, parts: Parts, claim: Claim, build_id: str, conductor: str, deadline: Callable[[Build], float]
) -> Build | None:
    """Assign the build to this conductor; -> None, and the job is consumed, when it needs no more work."""
    claim.prove(conn)
    build = builds.get(conn, build_id)
    if build.state.ended or build.state is BuildState.PAUSED:
        claim.board.consume_in(conn, claim.job)  # a worker died between the end of the build and that of its job
        return None
    ours: dict[str, Any] = {"conductor": conductor, "host": parts.config.host, "deadline": deadline(build)}
    _move(conn, build.id, BuildState.REVERTING if build.wish else BuildState.RUNNING, **ours)
    if build.conductor is not None and leases.is_of_another_boot(build.conductor, parts.config.host):
        steps.stop(conn, build.id, time.time(), steps.REBOOTED)
    if claim.job.waits is not None:
        claim.board.note_in(conn, claim.job.uuid, None)
    if build.conductor is None and build.wish is None:
        outbox.announce_build(conn, parts.config.announce.targets, "start", build)
    return replace(build, **ours)


def hand_back(conn: Connection, claim: Claim, build_id: str) -> None:
    """Release the build for the next conductor; one that is reverting stays so."""
    claim.board.prove(conn, claim.job)  # not the claim itself: it was dropped, so that nothing else is written
    if _moved(conn, build_id, BuildState.QUEUED, BuildState.RUNNING):
        steps.stop(conn, build_id, time.time(), steps.STOPPED)
    claim.board.abandon_in(conn, claim.job)


def wait(conn: Connection, parts: Parts, claim: Claim, build: Build, waits: Mapping[str, Any]) -> bool:
    """Give the build back until what it waits for is there (SqlJobBoard.postpone_in); -> False when it was asked to end."""
    claim.prove(conn)
    if not _moved(conn, build.id, BuildState.QUEUED, BuildState.RUNNING, unwished=True):
        return False
    parts.flows.reset_failed(conn, build.flow)
    claim.board.postpone_in(conn, claim.job, waits)
    return True


def succeed(conn: Connection, parts: Parts, build: Build, publication: PublicationResult, now: float) -> None:
    """The build's version exists; dependent images and announcement targets are told."""
    targets, host = parts.config.announce.targets, parts.config.host
    done: dict[str, Any] = {"ended": now, "digest": publication["digest"], "step": None, "error": None, "hint": None}
    _move(conn, build.id, BuildState.SUCCEEDED, **done)
    version = versions.add(conn, _version(build, publication, now))
    publications.want(conn, version.id, places.names(parts.config))
    outbox.announce_build(conn, targets, "end", build)
    outbox.announce_image(conn, targets, "publish", version)
    events.add(conn, [published(version)], listener="imageflow", now=now)
    owned = f"{publication['store']}:{publication['digest']}"
    ledger.close(conn, build.id, ResourceKind.PUBLICATION, owned, host, now)
    builds.take_claim(conn, build)
    parts.flows.delete(conn, build.flow)


def pause(conn: Connection, parts: Parts, build_id: str, *, unwished: bool, **why: str | None) -> bool:
    """A step failed; `why`: step, error, hint. -> False when `unwished` is required and it was asked to end meanwhile."""
    rest: dict[str, Any] = {"paused": time.time(), "deadline": None, **why}
    if not _moved(conn, build_id, BuildState.PAUSED, unwished=unwished, **rest):
        return False
    outbox.announce_build(conn, parts.config.announce.targets, "pause", builds.get(conn, build_id))
    return True


def wish_revert(conn: Connection, parts: Parts, build_id: str, error: str | None, hint: str | None) -> None:
    """A step failed under `on_failure: revert`: set that wish, unless there is another one."""
    builds.change(conn, build_id, unwished=True, wish=Wish.REVERT, error=error, hint=hint)
    parts.board.hurry_in(conn, build_id)


def hurry(conn: Connection, parts: Parts) -> None:
    """Reverts come first, also those that were asked for by an imageflow that did not know this."""
    if ids := builds.ending(conn):
        parts.board.hurry_in(conn, *ids)


def begin_revert(conn: Connection, build_id: str) -> None:
    """From now on everything the build made is being removed."""
    _move(conn, build_id, BuildState.REVERTING)


def revert(conn: Connection, parts: Parts, build: Build, left: str) -> None:
    """Everything the build made is removed, except `left`, which is left for the janitor."""
    assert build.wish is not None
    error = build.error if build.wish is Wish.REVERT else None
    if left:
        error = f"{error}; left for the janitor: {left}" if error else f"left for the janitor: {left}"
    said = {"error": error} if error else {}
    _end(conn, parts, build, build.wish.outcome, BuildState.REVERTING, paused=None, **said)


def _end(conn: Connection, parts: Parts, build: Build, to: BuildState, frm: BuildState, **values: Any) -> None:
    """The build ends without a version, and no longer holds its key."""
    _move(conn, build.id, to, frm, ended=time.time(), **values)
    parts.flows.delete(conn, build.flow)
    outbox.announce_build(conn, parts.config.announce.targets, "error", build)


# -- requested by users ------------------------------------------------------------------------------


def resume(parts: Parts, build_id: str, patience: float) -> Build:
    """Resume a paused build at its failed step. Raises Conflict if it is not paused."""
    tried = False

    def resume(conn: Connection) -> Build:
        nonlocal tried
        build = builds.get(conn, build_id)
        if tried and build.state in (BuildState.QUEUED, BuildState.RUNNING):
            return build  # it is done, only the reply to the commit got lost
        fresh: dict[str, Any] = {"paused": None, "error": None, "hint": None, "deadline": None}
        if not _moved(conn, build.id, BuildState.QUEUED, BuildState.PAUSED, **fresh):
            raise Conflict(f"build {build.id} is {build.state}, not paused", hint=_way_on(build))
        parts.flows.reset_failed(conn, build.flow)
        parts.board.post_in(conn, build.id, {}, _AGAIN)
        outbox.announce_build(conn, parts.config.announce.targets, "resume", build)
        tried = True
        return builds.get(conn, build.id)

    return parts.database.transact(resume, patience=patience)


def end(parts: Parts, build_id: str, wish: Wish, patience: float) -> Build:
    """Ask a build to end. Raises Conflict if it has ended."""
    tried = False

    def end(conn: Connection) -> Build:
        nonlocal tried
        build = builds.get(conn, build_id)
        if tried and build.wish is wish and build.state is not BuildState.PAUSED:
            return build  # it is done, only the reply to the commit got lost
        if build.state.ended:
            raise Conflict(f"build {build.id} has ended already: {build.state}", hint=_way_on(build))
        if build.wish is not None and build.state is not BuildState.PAUSED:  # paused: its revert hit a bug
            return build
        if build.state is BuildState.QUEUED and build.started is None and parts.board.withdraw_in(conn, build.id):
            _end(conn, parts, build, wish.outcome, BuildState.QUEUED, wish=wish)  # it has made nothing yet
        elif not _end_paused(conn, parts, build.id, wish) and not builds.change(
            conn, build.id, frm=_WORKED_ON, wish=wish
        ):  # otherwise its conductor, or the next one, sees the wish
            return end(conn)  # it was paused, or has ended, at this very moment
        parts.board.hurry_in(conn, build.id)
        tried = True
        return builds.get(conn, build.id)

    return parts.database.transact(end, patience=patience)


def give_up(conn: Connection, parts: Parts, build_id: str) -> bool:
    """Abort a build that was paused for too long; -> whether it was still paused."""
    return _end_paused(conn, parts, build_id, Wish.ABORT)


def _end_paused(conn: Connection, parts: Parts, build_id: str, wish: Wish) -> bool:
    if not _moved(conn, build_id, BuildState.REVERTING, BuildState.PAUSED, wish=wish, paused=None):
        return False
    parts.board.post_in(conn, build_id, {}, _REVERT)
    return True


def supersede(conn: Connection, parts: Parts, old: Build, new: Build) -> bool:
    """Withdraw a build that never began, in favour of a newer one; -> False when a conductor has it."""
    if not parts.board.withdraw_in(conn, old.id):
        return False
    error = f"superseded by build {new.id} before it began"
    reactions.superseded(conn, old.id, new.id)
    _end(conn, parts, old, BuildState.SUPERSEDED, BuildState.QUEUED, error=error)
    return True


def _way_on(build: Build) -> str:
    if build.state is BuildState.PAUSED:
        return f"'imageflow build resume {build.id}' or 'imageflow build abort {build.id}'"
    if build.state.ended:
        return "create the build again"
    return f"see 'imageflow build show {build.id}'"


def _version(build: Build, publication: PublicationResult, now: float) -> Version:
    return Version(
        id=0,
        image=publication["image"],
        build_id=build.id,
        key=build.key,
        digest=publication["digest"],
        created=now,
        store=publication["store"],
        path=publication["path"],
        artifacts=tuple(Artifact(**artifact) for artifact in publication["artifacts"]),
        properties=publication["properties"],
        packages=publication["packages"],
        content=publication["content"],
    )
