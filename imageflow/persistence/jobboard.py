"""A TaskFlow jobboard in the database: leases that expire by themselves, fences that stop a zombie."""

from __future__ import annotations

import datetime
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from taskflow import exceptions, states
from taskflow.jobs import base

from imageflow.errors import ClaimLost, Conflict
from imageflow.persistence.database import Database
from imageflow.persistence.tables import jobs
from imageflow.persistence.upsert import insert_or_keep

LOG = logging.getLogger(__name__)

LEASE = 30.0  # seconds, where `claim` is not told
_WINDOW = 50  # jobs that one look at the board brings
_PRIORITIES = {
    base.JobPriority.VERY_HIGH: 0,
    base.JobPriority.HIGH: 1,
    base.JobPriority.NORMAL: 2,
    base.JobPriority.LOW: 3,
    base.JobPriority.VERY_LOW: 4,
}
_NAMES = {number: priority for priority, number in _PRIORITIES.items()}


class SqlJob(base.Job):  # type: ignore[misc]  # taskflow has no types
    """A job on the board; its name is the build's id. `fence` is the number of the claim it holds, or saw."""

    def __init__(self, board: SqlJobBoard, row: sa.Row[Any], backend: Any = None, book: Any = None) -> None:
        super().__init__(
            board, row.name, uuid=row.uuid, details=row.details, backend=backend, book=book, book_data=row.book
        )
        self.fence: int = row.fence
        self.owner: str | None = row.owner
        self.idle = 0.0  # seconds that nobody held it, between the last claim and ours
        self._created: float = row.created
        self._priority = _NAMES[row.priority]

    @property
    def priority(self) -> base.JobPriority:
        """Its TaskFlow JobPriority."""
        return self._priority

    @property
    def created_on(self) -> datetime.datetime:
        """When it was posted, UTC."""
        return datetime.datetime.fromtimestamp(self._created, datetime.UTC)

    @property
    def last_modified(self) -> datetime.datetime:
        """When it was posted: nothing in a posting changes."""
        return self.created_on

    @property
    def state(self) -> str:
        """TaskFlow's UNCLAIMED, CLAIMED or COMPLETE, as the database says now."""
        row = self.board.look(self)
        if row is None or row.trashed:
            return str(states.COMPLETE)
        return str(states.CLAIMED if row.owner and row.until >= row.now else states.UNCLAIMED)

    def expires_in(self) -> float:
        """Seconds that the present claim is good for; negative when there is none."""
        row = self.board.look(self)
        return -1.0 if row is None or not row.owner else float(row.until - row.now)

    def extend_expiry(self, expiry: float) -> bool:
        """Prolong the claim, if this very claim still holds; -> whether it does."""
        return bool(self.board.extend(self, expiry))


class _Jobs(base.JobBoardIterator):  # type: ignore[misc]
    """TaskFlow's iterator asks for the state of each job; ours comes from the query, and claim() decides."""

    def _next_job(self) -> SqlJob | None:
        return self._jobs.popleft() if self._jobs else None


class SqlJobBoard(base.JobBoard):  # type: ignore[misc]
    """Jobs in the `jobs` table of a Database, at most one per name.

    Either with a Database (or a FlowStore as `persistence`, which has one), or as a TaskFlow driver:
    `taskflow.jobs.backends.fetch(name, {"board": "sql", "connection": URL})`, with an optional `lease` in
    seconds. `claim`, `extend` and the others take TaskFlow's exceptions; what happens inside a caller's
    transaction raises ClaimLost.
    """

    def __init__(
        self, name: str, conf: Mapping[str, Any], persistence: Any = None, database: Database | None = None
    ) -> None:
        super().__init__(name, conf)
        self._persistence = persistence
        self._db = database or getattr(persistence, "db", None)
        self._own = self._db is None
        if self._db is None:
            self._db = Database(conf["connection"])
        self._lease = float(conf.get("lease", LEASE))
        self._window = int(conf.get("window", _WINDOW))
        self._connected = False
        self._posted = threading.Event()  # wakes a waiter in the same process at once

    @property
    def db(self) -> Database:
        """Where the jobs are."""
        assert self._db is not None
        return self._db

    def look(self, job: SqlJob) -> Any:
        """The row of a job with `now`, the database's clock; None when it is consumed."""
        with self.db.read() as conn:
            return conn.execute(sa.select(jobs, self.db.now().label("now")).where(jobs.c.uuid == job.uuid)).first()

    # Posting

    def post(self, name: str, book: Any = None, details: Any = None, priority: Any = base.JobPriority.NORMAL) -> SqlJob:
        """Post a job in a transaction of its own; raises Conflict when there is one of this name."""

        def work(conn: sa.Connection) -> sa.Row[Any]:
            return self._post(conn, name, details, priority, book)

        row = self.db.transact(work)
        self._posted.set()
        return SqlJob(self, row, self._persistence, book)

    def post_in(
        self,
        conn: sa.Connection,
        build_id: str,
        details: Mapping[str, Any],
        priority: base.JobPriority | str = base.JobPriority.NORMAL,
    ) -> SqlJob:
        """Post the job of a build inside the caller's transaction; raises Conflict when there is one."""
        return SqlJob(self, self._post(conn, build_id, details, priority), self._persistence)

    def _post(self, conn: sa.Connection, name: str, details: Any, priority: Any, book: Any = None) -> sa.Row[Any]:
        priority = base.JobPriority.convert(priority)
        values = {
            "uuid": str(uuid.uuid4()),
            "board": self.name,
            "name": name,
            "priority": _PRIORITIES[priority],
            "details": dict(details or {}),
            "book": None if book is None else {"name": book.name, "uuid": book.uuid},
            "created": self.db.now(),
        }
        insert_or_keep(conn, jobs, values, key="name")
        row = conn.execute(sa.select(jobs).where(jobs.c.uuid == values["uuid"])).first()
        if row is None:
            raise Conflict(f"{name} is on the board already")
        return row

    # Looking

    def iterjobs(self, only_unclaimed: bool = False, ensure_fresh: bool = False) -> _Jobs:
        """Jobs by priority, then by age; with `only_unclaimed` those that nobody holds now."""
        return _Jobs(self, LOG, board_fetch_func=lambda **_: self._fetch(only_unclaimed))

    def unclaimed(self, names: Iterable[str]) -> list[SqlJob]:
        """Of the jobs with these names those that nobody holds now, however long the queue is."""
        return self._fetch(True, list(names))

    def _fetch(self, only_unclaimed: bool, names: Sequence[str] | None = None) -> list[SqlJob]:
        query = sa.select(jobs).where(jobs.c.board == self.name, jobs.c.trashed == sa.false())
        if names is not None:
            query = query.where(jobs.c.name.in_(names))
        if only_unclaimed:
            query = query.where(sa.or_(jobs.c.owner.is_(None), jobs.c.until < self.db.now()))
        query = query.order_by(jobs.c.priority, jobs.c.seq).limit(self._window)
        with self.db.read() as conn:
            return [SqlJob(self, row, self._persistence) for row in conn.execute(query)]

    def wait(self, timeout: float | None = None, poll: float = 0.5) -> _Jobs:
        """Unclaimed jobs as soon as there are any; raises TaskFlow's NotFound after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._posted.clear()
            if found := self._fetch(only_unclaimed=True):
                return _Jobs(self, LOG, board_fetch_func=lambda **_: found)
            left = poll if end is None else min(poll, end - time.monotonic())
            if left <= 0:
                raise exceptions.NotFound("there are no jobs")
            self._posted.wait(left)

    def until_free(self, who: str) -> float | None:
        """Seconds until the first claim of anybody but `who` runs out, unless it is prolonged; None without any."""
        now = self.db.now()
        query = sa.select(sa.func.min(jobs.c.until) - now).where(
            jobs.c.board == self.name, jobs.c.trashed == sa.false(), jobs.c.owner != who, jobs.c.until >= now
        )
        with self.db.read() as conn:
            left = conn.execute(query).scalar_one()
        return None if left is None else float(left)

    def find_owner(self, job: SqlJob) -> str | None:
        """Who holds a job now."""
        row = self.look(job)
        return row.owner if row is not None and row.owner and row.until >= row.now else None

    @property
    def job_count(self) -> int:
        """How many jobs are on the board, claimed ones too."""
        query = sa.select(sa.func.count()).where(jobs.c.board == self.name, jobs.c.trashed == sa.false())
        with self.db.read() as conn:
            return int(conn.execute(query).scalar_one())

    # Holding

    @base.check_who  # type: ignore[untyped-decorator]
    def claim(self, job: SqlJob, who: str, expiry: float | None = None) -> None:
        """Hold a job for `expiry` seconds; raises TaskFlow's UnclaimableJob or NotFound.

        Nobody can claim what is claimed, not even under the same name: names are a process's own.
        """

        def work(conn: sa.Connection) -> tuple[bool, Any]:
            now = self.db.now()
            past = sa.select(jobs.c.until, now.label("now")).where(jobs.c.uuid == job.uuid, jobs.c.until > 0)
            before = conn.execute(past).first()
            job.idle = 0.0 if before is None else max(0.0, before.now - before.until)
            free = sa.or_(jobs.c.owner.is_(None), jobs.c.until < now)
            statement = sa.update(jobs).where(jobs.c.uuid == job.uuid, jobs.c.trashed == sa.false(), free)
            values = {"owner": who, "until": now + float(expiry or self._lease), "fence": jobs.c.fence + 1}
            won = conn.execute(statement.values(values)).rowcount == 1
            return won, conn.execute(sa.select(jobs).where(jobs.c.uuid == job.uuid)).first()

        won, row = self.db.transact(work)
        if row is None:
            raise exceptions.NotFound(f"Job {job.name} is not on the board")
        if not won:
            raise exceptions.UnclaimableJob(f"Job {job.name} is held by {row.owner}")
        job.fence, job.owner = row.fence, row.owner

    def _mine(self, job: SqlJob, who: str | None = None) -> Sequence[sa.ColumnElement[bool]]:
        return (
            jobs.c.uuid == job.uuid,
            jobs.c.fence == job.fence,
            jobs.c.owner == (who or job.owner),
            jobs.c.until >= self.db.now(),
            jobs.c.trashed == sa.false(),
        )

    def prove(self, conn: sa.Connection, job: SqlJob) -> None:
        """Raise ClaimLost unless this claim holds; nobody can take it before the transaction ends.

        Locks the job's row (on SQLite the write transaction has locked the whole database already).
        """
        query = sa.select(jobs.c.seq).where(*self._mine(job)).with_for_update(key_share=True)
        if conn.execute(query).first() is None:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def extend(self, job: SqlJob, seconds: float | None = None) -> bool:
        """Prolong a claim to `seconds` from now; -> False when it is lost."""
        return not self.extend_all([job], seconds)

    def extend_all(self, held: Iterable[SqlJob], seconds: float | None = None) -> list[SqlJob]:
        """Prolong many claims with one statement; -> those that are lost."""
        held = list(held)
        if not held:
            return []

        def work(conn: sa.Connection) -> list[SqlJob]:
            mine = sa.or_(*(sa.and_(*self._mine(job)) for job in held))
            until = self.db.now() + float(seconds or self._lease)
            if conn.execute(sa.update(jobs).where(mine).values(until=until)).rowcount == len(held):
                return []
            alive = {tuple(row) for row in conn.execute(sa.select(jobs.c.uuid, jobs.c.fence).where(mine))}
            return [job for job in held if (job.uuid, job.fence) not in alive]

        return self.db.transact(work)

    # Ending

    def consume_in(self, conn: sa.Connection, job: SqlJob) -> None:
        """Remove a job that we hold, inside the caller's transaction; raises ClaimLost."""
        if conn.execute(sa.delete(jobs).where(*self._mine(job))).rowcount != 1:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def abandon_in(self, conn: sa.Connection, job: SqlJob) -> None:
        """Give back a job that we hold, inside the caller's transaction; raises ClaimLost."""
        if conn.execute(sa.update(jobs).where(*self._mine(job)).values(owner=None, until=self.db.now())).rowcount != 1:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def withdraw_in(self, conn: sa.Connection, build_id: str) -> bool:
        """Remove the job of a build unless somebody holds it, inside the caller's transaction; -> whether it was."""
        free = sa.or_(jobs.c.owner.is_(None), jobs.c.until < self.db.now())
        mine = (jobs.c.name == build_id, jobs.c.board == self.name, free)
        return conn.execute(sa.delete(jobs).where(*mine)).rowcount == 1

    @base.check_who  # type: ignore[untyped-decorator]
    def consume(self, job: SqlJob, who: str) -> None:
        """Remove a job that `who` holds; raises TaskFlow's JobFailure or NotFound."""
        self._end(job, who, "consume", lambda mine: sa.delete(jobs).where(*mine))

    @base.check_who  # type: ignore[untyped-decorator]
    def abandon(self, job: SqlJob, who: str) -> None:
        """Give a job back that `who` holds; raises TaskFlow's JobFailure or NotFound."""
        self._end(
            job, who, "abandon", lambda mine: sa.update(jobs).where(*mine).values(owner=None, until=self.db.now())
        )

    @base.check_who  # type: ignore[untyped-decorator]
    def trash(self, job: SqlJob, who: str) -> None:
        """Put a broken job that `who` holds aside; raises TaskFlow's JobFailure or NotFound."""
        self._end(job, who, "trash", lambda mine: sa.update(jobs).where(*mine).values(owner=None, trashed=True))

    def _end(
        self, job: SqlJob, who: str, verb: str, statement: Callable[[Sequence[sa.ColumnElement[bool]]], Any]
    ) -> None:
        ended = self.db.transact(lambda conn: conn.execute(statement(self._mine(job, who))).rowcount == 1)
        if not ended:
            if self.look(job) is None:
                raise exceptions.NotFound(f"Job {job.name} is not on the board")
            raise exceptions.JobFailure(f"{who} can't {verb} job {job.name}: it does not hold it")

    # Life

    def register_entity(self, entity: Any) -> None:
        """Nothing to do: a conductor of ours writes its own heartbeat (persistence.conductors)."""

    @property
    def connected(self) -> bool:
        """Between `connect` and `close`."""
        return self._connected

    def connect(self) -> None:
        """Make sure that the tables are there."""
        self.db.ready()
        self._connected = True

    def close(self) -> None:
        """End; closes the Database only if the board made it."""
        self._connected = False
        self._posted.set()
        if self._own:
            self.db.close()
