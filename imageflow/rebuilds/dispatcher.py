"""From events to builds: matches incoming events, and requests the builds whose turn it is.

The database is the only state: any number of dispatchers may work on it, and be killed at any instruction.
The reason why a rebuild waits is in its row: `imageflow rebuild list` shows it.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow.background.complaints import Complaints
from imageflow.background.flag import Flag
from imageflow.builds.submission import Submitter
from imageflow.config import Config
from imageflow.errors import BadInput, ConfigError, ImageflowError, InputChanged, NoSpace, NotFound, Refused
from imageflow.events.inbox import SqlInbox
from imageflow.events.own import PUBLISH
from imageflow.model import BuildState, Outcome, Submission, SubmissionVerdict
from imageflow.persistence import (
    builds,
    events,
    git_origins,
    leases,
    reactions,
    rebuilds,
    registry,
)
from imageflow.persistence.database import Database
from imageflow.persistence.elapsed import Ages
from imageflow.persistence.reactions import Taken
from imageflow.rebuilds.behind import reconcile
from imageflow.rebuilds.forgetting import forget
from imageflow.rebuilds.matching import match_waiting
from imageflow.registry.checkouts import Checkouts
from imageflow.registry.images import RegisteredImages

LOG = logging.getLogger(__name__)
POLL = 0.25  # seconds between two looks without a wake-up
RETRY = 30.0  # seconds until an input that did not answer is queried again
SWEEP = 3600.0  # seconds between two rounds of forgetting old events
_SHARE = 3.0  # a long look is followed by a pause this many times as long: much may wait
_MATCHING = 1.0  # seconds of matching after which rebuilds get their turn, however many events wait
_AT_ONCE = 4  # images whose inputs are looked up at once
_HOLDS = {
    BuildState.QUEUED: "is queued",
    BuildState.RUNNING: "is running",
    BuildState.REVERTING: "is being reverted",
    BuildState.PAUSED: "is paused: resume or abort it",
    BuildState.FAILED: "failed: build it again",
}


# causes outside the recipe: they end one day, and the events still need their answer then
_PASSING = (ConfigError, InputChanged, NoSpace)


class _Lost(Exception):
    """Another process answered this image in the meantime."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at an image, which answers the events that waited when it began."""

    image: str
    owner: str
    token: str


class Dispatcher:
    """Works on the inbox and on waiting rebuilds, in the calling thread and a few of its own."""

    def __init__(
        self,
        config: Config,
        database: Database,
        submitter: Submitter,
        checkouts: Checkouts,
        inbox: SqlInbox,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """`begun` is called after each new build."""
        self._config = config
        self._triggers = config.triggers
        self._database = database
        self._submitter = submitter
        self._images = RegisteredImages(config, database, submitter, checkouts)
        self._lease = config.conductor.lease  # seconds after which another process may take over one of our looks
        self._renewed = 0.0
        self._inbox = inbox
        self._begun = begun
        self._name = leases.new_owner(config.host)
        self._bell = Flag()
        self._looking: set[str] = set()
        self._elsewhere: dict[
            str, float
        ] = {}  # image whose recipe's folder is only on other hosts -> when to look again
        self._complaints = Complaints()
        self._sweep_at = 0.0  # at the start, too
        self._reconcile_at = 0.0
        self._ages = Ages(database, config.host)

    def wake(self) -> None:
        """There are new events in the inbox."""
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
                with self._complaints.instead_of_failing("count refused requests"):
                    self._inbox.flush()
                with self._complaints.instead_of_failing("forget old events"):
                    self._sweep()
                self._bell.wait(max(POLL, _SHARE * (time.monotonic() - began)))
                self._bell.clear()

    def once(self) -> list[str]:
        """Match all events, and look once at each image whose turn it is; -> those images."""
        match_waiting(self._database)
        ready = self._ready()
        for image in ready:
            self._look_at(image)
        return ready

    def _renew(self) -> None:
        """Renew our leases: looking up an image's inputs may take longer than a lease."""
        images = list(self._looking)
        if images and time.monotonic() - self._renewed > self._lease / 4:
            self._database.transact(lambda conn: rebuilds.renew(conn, self._name, images, self._lease))
            self._renewed = time.monotonic()

    def _reconcile(self) -> None:
        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + self._triggers.reconcile
            reconcile(self._database)

    def _sweep(self) -> None:
        if time.monotonic() < self._sweep_at:
            return
        forget(self._config, self._database, self._ages)
        self._sweep_at = time.monotonic() + SWEEP

    # -- whose turn it is ---------------------------------------------------------------------------

    def _ready(self) -> list[str]:
        """The images that nothing holds back; the reasons why the others wait are recorded."""
        ready: list[str] = []
        held: dict[str, str] = {}
        with self._database.read() as conn:
            rows = rebuilds.open_rows(conn)
            if not rows:
                return ready
            now = time.time()
            awaited = git_origins.awaited(conn)
            room = self._triggers.max_per_minute - builds.created_since(conn, now - 60, self._triggers.max_per_minute)
            taken = {row.image for row in rows if row.taken} | set(self._looking)
            room -= len(taken)  # each of these may become a build
            for row in rows:
                if row.image in taken or self._elsewhere.get(row.image, 0.0) > time.monotonic():
                    continue
                if len(ready) >= room and not row.forced:
                    why: str | None = (
                        f"{self._triggers.max_per_minute} builds a minute at most ([triggers] max_per_minute)"
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
        if 0 < row.retry - now <= RETRY:  # a later time was written before the clock was set back
            return str(row.held)
        if row.forced:
            return None
        if image in awaited:
            return f"waits for a push to its recipe, of {awaited[image]}"
        left = 0.0 if row.answered is None else row.answered + self._triggers.debounce - now
        if 0 < left <= self._triggers.debounce:
            end = time.strftime("%H:%M:%S", time.localtime(now + left))
            return f"gathers events until {end} ([triggers] debounce)"
        if (build := builds.busy(conn, image)) is not None:
            return f"build {build} of it is running: one more after it"
        return self._why_held_by_ancestors(conn, image, awaited)

    @staticmethod
    def _why_held_by_ancestors(conn: Connection, image: str, awaited: Mapping[str, str]) -> str | None:
        above = registry.ancestors(conn, image)
        if not above:
            return None
        for one in sorted(awaited.keys() & set(above)):
            return f"waits for a push to the recipe of {one}, of {awaited[one]}"
        if (found := events.announced(conn, PUBLISH, above)) is not None:
            return f"waits for the rebuilds that the new version of {found} causes"
        if (found := rebuilds.any_open(conn, above)) is not None:
            return f"waits for {found}, which is to be rebuilt first"
        for newest in builds.newest(conn, above):
            if newest.state in _HOLDS:
                return f"waits for {newest.image}: build {newest.id} {_HOLDS[newest.state]}"
        return None

    # -- one image -----------------------------------------------------------------------------------

    def _look_at(self, image: str) -> None:
        """Look up an image's inputs, and answer the events that requested it."""
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
        """Whether only another host can see an image's inputs: it is left to that host."""
        try:
            with self._database.read() as conn:
                recipe = registry.of_image(conn, image)[0]
        except NotFound:
            return False  # it is no longer in any recipe: that is the answer
        folder = Path(recipe.path).parent
        if recipe.repository is not None or folder.is_dir():
            self._elsewhere.pop(image, None)
            return False
        self._elsewhere[image] = time.monotonic() + RETRY
        why = f"the folder of its recipe, {folder}, is not on {self._config.host}"
        self._database.transact(lambda conn: rebuilds.hold(conn, image, why))
        return True

    def _take(self, conn: Connection, look: _Look) -> Taken | None:
        if not rebuilds.claim(conn, look.image, look.owner, self._lease):
            return None
        return reactions.take(conn, look.image, look.token)

    def _rebuild(self, look: _Look, taken: Taken) -> None:
        try:
            if not taken.count:
                self._close(look, Outcome.DROPPED, "no event requests it any more")
                return
            if (why := self._cut_off(look.image, taken)) is not None:
                self._close(look, Outcome.UNCHANGED, why)
                return
            recipe, canonical = self._images.recipe(look.image)
            wanted = self._images.wanted(recipe, canonical)

            def answer(conn: Connection, submission: Submission) -> None:
                if registry.current(conn, look.image) != recipe.id:
                    raise _Lost  # another version of the recipe was registered in the meantime: look again
                self._answer(conn, look, Outcome(submission.verdict), submission.reason, submission.build.id)
                if submission.verdict is SubmissionVerdict.CREATED:
                    self._submitter.supersede(conn, submission.build)

            submission = self._submitter.ask(wanted, cause=_cause(taken), answer=answer)
        except _Lost:
            LOG.info(
                "%s: nothing done: another process did it, its recipe changed, or it is no longer requested", look.image
            )
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
        """Why its parents' new versions are no reason to rebuild it, if there is no other reason."""
        if not taken.only_parents or not taken.parents:
            return None
        with self._database.read() as conn:
            lasts = [builds.same_content(conn, image, parent) for parent in sorted(taken.parents)]
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
