"""From events to builds: matches what came in, and asks for the builds whose turn it is.

The database is the only state: any number of dispatchers may work on it, and be killed at any instruction.
What waits says why, in its row: `imageflow rebuild list` shows it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow.complaints import Complaints
from imageflow.errors import BadInput, ConfigError, ImageflowError, InputChanged, NoSpace, NotFound, Refused
from imageflow.inbox import SqlInbox
from imageflow.matching import match_waiting
from imageflow.model import BuildState, Outcome, Submission
from imageflow.persistence import events, origins, reactions, rebuilds, registry, standing
from imageflow.persistence.reactions import Taken
from imageflow.reconcile import reconcile
from imageflow.service import Service
from imageflow.signals import Flag
from imageflow.triggers import PUBLISH

LOG = logging.getLogger(__name__)
POLL = 0.25  # seconds between two looks, when nobody wakes us
RETRY = 30.0  # seconds until an input that did not answer is asked again
SWEEP = 3600.0  # seconds between two rounds of forgetting old events
_SHARE = 3.0  # a look that took long is followed by so many times as long a pause: much may wait
_MATCHING = 1.0  # seconds after which those that are to be rebuilt get their turn, however many events wait
_AT_ONCE = 4  # images whose inputs are looked at
_HOLDS = {
    BuildState.QUEUED: "is queued",
    BuildState.RUNNING: "is running",
    BuildState.REVERTING: "is being reverted",
    BuildState.PAUSED: "is paused: resume or abort it",
    BuildState.FAILED: "failed: build it again",
}


# what has nothing to do with the recipe: it is over one day, and then the events still want their answer
_PASSING = (ConfigError, InputChanged, NoSpace)


class _Lost(Exception):
    """Another process answered this image meanwhile."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at an image, which answers what waited when it began."""

    image: str
    owner: str
    token: str


class Dispatcher:
    """Works on the inbox and on what waits to be rebuilt, in the calling thread and a few of its own."""

    def __init__(self, service: Service, inbox: SqlInbox, begun: Callable[[], None] = lambda: None) -> None:
        """`begun` is called after each build that came to be."""
        self._service = service
        self._config = service.config.triggers
        self._database = service.database
        self._lease = service.config.conductor.lease  # seconds after which another process may take a look of ours over
        self._renewed = 0.0
        self._inbox = inbox
        self._begun = begun
        self._name = f"{service.config.host}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._bell = Flag()
        self._looking: set[str] = set()
        self._elsewhere: dict[str, float] = {}  # image whose recipe's folder is on other hosts only -> look again then
        self._complaints = Complaints()
        self._sweep_at = 0.0  # at the start, too
        self._reconcile_at = 0.0

    def wake(self) -> None:
        """There is something new in the inbox."""
        self._bell.set()

    def run(self, stop: Flag) -> None:
        """Work until `stop` is set."""
        with ThreadPoolExecutor(_AT_ONCE, "rebuild") as pool:
            while not stop.is_set():
                began = time.monotonic()
                with self._complaints.instead_of_failing("match events"):
                    if match_waiting(self._database, _MATCHING) and time.monotonic() - began > _MATCHING:
                        self._bell.set()  # there may be more
                with self._complaints.instead_of_failing("see what is to be rebuilt"):
                    for image in self._ready():
                        self._looking.add(image)
                        pool.submit(self._look_at, image)
                with self._complaints.instead_of_failing("keep what is looked at"):
                    self._renew()
                with self._complaints.instead_of_failing("reconcile"):
                    self._reconcile()
                with self._complaints.instead_of_failing("forget old events"):
                    self._sweep()
                self._bell.wait(max(POLL, _SHARE * (time.monotonic() - began)))
                self._bell.clear()

    def once(self) -> list[str]:
        """Match everything, and look once at each image whose turn it is; -> those."""
        match_waiting(self._database)
        ready = self._ready()
        for image in ready:
            self._look_at(image)
        return ready

    def _renew(self) -> None:
        """What we look at stays ours: finding out what goes into an image may take longer than a lease."""
        images = list(self._looking)
        if images and time.monotonic() - self._renewed > self._lease / 4:
            self._database.transact(lambda conn: rebuilds.renew(conn, self._name, images, self._lease))
            self._renewed = time.monotonic()

    def _reconcile(self) -> None:
        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + self._config.reconcile
            reconcile(self._database)

    def _sweep(self) -> None:
        self._inbox.flush()
        if time.monotonic() < self._sweep_at:
            return
        before = time.time() - self._service.config.events.retention
        while self._database.transact(lambda conn: events.prune(conn, before)):
            pass
        self._sweep_at = time.monotonic() + SWEEP

    # -- whose turn is it ---------------------------------------------------------------------------

    def _ready(self) -> list[str]:
        """The images that nothing holds back; why the others wait is written down."""
        ready: list[str] = []
        held: dict[str, str] = {}
        with self._database.read() as conn:
            rows = rebuilds.open_rows(conn)
            if not rows:
                return ready
            now = time.time()
            awaited = origins.awaited(conn)
            room = self._config.max_per_minute - standing.created_since(conn, now - 60, self._config.max_per_minute)
            taken = {row.image for row in rows if row.until > now} | set(self._looking)
            room -= len(taken)  # each of these may become a build
            for row in rows:
                if row.image in taken or self._elsewhere.get(row.image, 0.0) > time.monotonic():
                    continue
                if len(ready) >= room and not row.forced:
                    why: str | None = (
                        f"{self._config.max_per_minute} builds a minute at most ([triggers] max_per_minute)"
                    )
                else:
                    why = self._why_held(conn, row, now, awaited)
                if why is None:
                    ready.append(row.image)
                elif why != row.held:
                    held[row.image] = why
        if held:
            self._database.transact(lambda conn: rebuilds.hold_all(conn, held))
        return ready

    def _why_held(self, conn: Connection, row: sa.Row[Any], now: float, awaited: Mapping[str, str]) -> str | None:
        image = str(row.image)
        if 0 < row.retry - now <= RETRY:  # what is further away was written before the clock was set back
            return str(row.held)
        if row.forced:
            return None
        if image in awaited:
            return f"waits for what was pushed to its recipe, of {awaited[image]}"
        left = 0.0 if row.answered is None else row.answered + self._config.debounce - now
        if 0 < left <= self._config.debounce:
            end = time.strftime("%H:%M:%S", time.localtime(now + left))
            return f"gathers events until {end} ([triggers] debounce)"
        if (build := standing.busy(conn, image)) is not None:
            return f"build {build} of it is running: one more after it"
        return self._why_held_by_ancestors(conn, image, awaited)

    @staticmethod
    def _why_held_by_ancestors(conn: Connection, image: str, awaited: Mapping[str, str]) -> str | None:
        above = registry.ancestors(conn, image)
        if not above:
            return None
        for one in sorted(awaited.keys() & set(above)):
            return f"waits for what was pushed to the recipe of {one}, of {awaited[one]}"
        if (found := events.announced(conn, PUBLISH, above)) is not None:
            return f"waits for what the new version of {found} brings about"
        if (found := rebuilds.any_open(conn, above)) is not None:
            return f"waits for {found}, which is to be rebuilt first"
        for newest in standing.newest(conn, above):
            if newest.state in _HOLDS:
                return f"waits for {newest.image}: build {newest.id} {_HOLDS[newest.state]}"
        return None

    # -- one image -----------------------------------------------------------------------------------

    def _look_at(self, image: str) -> None:
        """Find out what goes into an image now, and answer the events that asked for it."""
        look = _Look(image, self._name, uuid.uuid4().hex)
        try:
            with self._complaints.instead_of_failing(f"rebuild {image}"):
                if self._is_elsewhere(image):
                    return
                taken = self._database.transact(lambda conn: self._take(conn, look))
                if taken is not None:
                    self._rebuild(look, taken)
        finally:
            self._looking.discard(image)

    def _is_elsewhere(self, image: str) -> bool:
        """Whether only another host can see what goes into an image: it is left to that one."""
        try:
            with self._database.read() as conn:
                recipe = registry.of_image(conn, image)[0]
        except NotFound:
            return False  # it is in no recipe any more: that is the answer
        folder = Path(recipe.path).parent
        if recipe.repository is not None or folder.is_dir():
            self._elsewhere.pop(image, None)
            return False
        self._elsewhere[image] = time.monotonic() + RETRY
        why = f"the folder of its recipe, {folder}, is not on {self._service.config.host}"
        self._database.transact(lambda conn: rebuilds.hold(conn, image, why))
        return True

    def _take(self, conn: Connection, look: _Look) -> Taken | None:
        if not rebuilds.claim(conn, look.image, look.owner, self._lease):
            return None
        return reactions.take(conn, look.image, look.token)

    def _rebuild(self, look: _Look, taken: Taken) -> None:
        try:
            if not taken.count:
                self._close(look, Outcome.DROPPED, "nothing asks for it any more")
                return
            if (why := self._cut_off(look.image, taken)) is not None:
                self._close(look, Outcome.UNCHANGED, why)
                return
            with self._database.read() as conn:
                recipe, canonical = registry.of_image(conn, look.image)
            wanted = self._service.submitter.wanted(canonical, self._service.hosted.folder(recipe))

            def answer(conn: Connection, submission: Submission) -> None:
                if registry.current(conn, look.image) != recipe.id:
                    raise _Lost  # another version of the recipe came meanwhile: it is looked at again
                self._answer(conn, look, Outcome(submission.verdict), submission.reason, submission.build.id)
                if submission.verdict == "created":
                    self._service.submitter.supersede(conn, submission.build)

            submission = self._service.submitter.ask(wanted, cause=_cause(taken), answer=answer)
        except _Lost:
            LOG.info("%s: looked at in vain: another process did, its recipe changed, or nobody wants it", look.image)
        except _PASSING as error:
            self._put_off(look, f"{error}; tried again every {RETRY:.0f} s")
        except (BadInput, Refused) as error:
            LOG.warning("%s can't be rebuilt: %s", look.image, error)
            with contextlib.suppress(_Lost):
                self._close(look, Outcome.REFUSED, str(error))
        except ImageflowError as error:
            self._put_off(look, f"{error}; tried again every {RETRY:.0f} s")
        except Exception as error:
            self._put_off(
                look, f"a bug in imageflow, see its log: {type(error).__name__}; tried again every {RETRY:.0f} s"
            )
            raise
        else:
            self._begun()
            LOG.info("%s: %s %s: %s", look.image, submission.verdict, submission.build.id, submission.reason)

    def _cut_off(self, image: str, taken: Taken) -> str | None:
        """Why its parents' new versions are no reason to build it again, if nothing else is one."""
        if not taken.only_parents or not taken.parents:
            return None
        with self._database.read() as conn:
            lasts = [standing.same_content(conn, image, parent) for parent in sorted(taken.parents)]
        if lasts[0] is None or None in lasts:
            return None
        names = " and ".join(sorted(taken.parents))
        return f"{names} has the content that build {lasts[0].id} of {image} was made from"

    def _put_off(self, look: _Look, why: str) -> None:
        LOG.warning("%s waits: %s", look.image, why)
        retry = time.time() + RETRY
        self._database.transact(lambda conn: rebuilds.put_off(conn, look.image, look.owner, why, retry=retry))

    def _close(self, look: _Look, outcome: Outcome, detail: str) -> None:
        self._database.transact(lambda conn: self._answer(conn, look, outcome, detail, None))
        LOG.info("%s: %s: %s", look.image, outcome, detail)

    @staticmethod
    def _answer(conn: Connection, look: _Look, outcome: Outcome, detail: str, build_id: str | None) -> None:
        reactions.answer(conn, look.image, look.token, outcome, build_id=build_id, detail=detail)
        if not rebuilds.answer(conn, look.image, look.owner, time.time()):
            raise _Lost


def _cause(taken: Taken) -> str:
    named = "; ".join(taken.reasons)
    more = taken.count - len(taken.reasons)
    return f"{named} and {more} more" if more > 0 else named
