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
from imageflow.persistence import leases, schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import jobs
from imageflow.persistence.upsert import insert_or_keep

LOG = logging.getLogger(__name__)

LEASE = 12.0  # seconds, unless given to `claim`
_WINDOW = 50  # jobs fetched per look at the board
_BEGUN = 1000  # of builds that had begun: they are few, and none may hide the others
REVERT, AGAIN = base.JobPriority.VERY_HIGH, base.JobPriority.HIGH  # builds that end; builds that had begun, and go on
_PRIORITIES = {
    base.JobPriority.VERY_HIGH: 0,
    base.JobPriority.HIGH: 1,
    base.JobPriority.NORMAL: 2,
    base.JobPriority.LOW: 3,
    base.JobPriority.VERY_LOW: 4,
}
_NAMES = {number: priority for priority, number in _PRIORITIES.items()}


class SqlJob(base.Job):  # type: ignore[misc]  # taskflow has no types
    """A job on the board; its name is the build's id. `fence` is the number of the claim that it holds, or saw."""

    def __init__(self, board: SqlJobBoard, row: sa.Row[Any], backend: Any = None, book: Any = None) -> None:
        super().__init__(
            board, row.name, uuid=row.uuid, details=row.details, backend=backend, book=book, book_data=row.book
        )
        self.fence: int = row.fence
        self.owner: str | None = row.owner
        self.idle = 0.0  # seconds without a holder, between the last claim and ours
        self.asked = 0.0  # time.monotonic() just before the database granted the claim: our lease counts from then
        self._created: float = row.created
        self._priority = _NAMES[row.priority]

    @property
    def waits(self) -> Mapping[str, Any] | None:
        """What the build waits for before it can go on, as `postpone_in` stored it."""
        found: Mapping[str, Any] | None = (self.details or {}).get("waits")
        return found

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
        """Seconds until the current claim expires; negative when there is none."""
        row = self.board.look(self)
        return -1.0 if row is None or not row.owner else float(row.until - row.now)

    def extend_expiry(self, expiry: float) -> bool:
        """Extend the claim, if this very claim still holds; -> whether it does."""
        return bool(self.board.extend(self, expiry))


class _Jobs(base.JobBoardIterator):  # type: ignore[misc]
    """TaskFlow's iterator queries the state of each job; ours comes from the query, and claim() decides."""

    def _next_job(self) -> SqlJob | None:
        return self._jobs.popleft() if self._jobs else None


class SqlJobBoard(base.JobBoard):  # type: ignore[misc]
    """Jobs in the `jobs` table of a Database, at most one per name.

    Either with a Database (or a FlowStore as `persistence`, which has one), or as a TaskFlow driver:
    `taskflow.jobs.backends.fetch(name, {"board": "sql", "connection": URL})`, with an optional `lease` in
    seconds. `claim`, `extend` and the others raise TaskFlow's exceptions; the methods that run inside a caller's
    transaction raise ClaimLost.
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
        """Post a job in a transaction of its own; raises Conflict when there is one with this name."""

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
            raise Conflict(f"{name} is already on the board")
        return row

    # Looking

    def iterjobs(self, only_unclaimed: bool = False, ensure_fresh: bool = False) -> _Jobs:
        """Jobs by priority, then by age; with `only_unclaimed`, those that are free now."""
        return _Jobs(self, LOG, board_fetch_func=lambda **_: self._fetch(only_unclaimed))

    def unclaimed(self, names: Iterable[str] | None = None, rank: base.JobPriority | None = None) -> list[SqlJob]:
        """The free jobs, by priority, then by age; of these names or all.

        `rank`: only REVERT, only AGAIN, or with NORMAL only what has neither.
        """
        if rank is None:
            return self._fetch(True, names)
        if rank in (REVERT, AGAIN):
            return self._fetch(True, names, jobs.c.priority == _PRIORITIES[rank], window=_BEGUN)
        return self._fetch(True, names, jobs.c.priority > _PRIORITIES[AGAIN])

    def _fetch(
        self,
        only_unclaimed: bool,
        names: Iterable[str] | None = None,
        *where: sa.ColumnElement[bool],
        window: int = 0,
    ) -> list[SqlJob]:
        query = sa.select(jobs).where(jobs.c.board == self.name, jobs.c.trashed == sa.false(), *where)
        if names is not None:
            query = query.where(jobs.c.name.in_(list(names)))
        if only_unclaimed:
            query = query.where(leases.free(jobs, self.db.dialect))
        query = query.order_by(jobs.c.priority, jobs.c.seq).limit(window or self._window)
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
        """Seconds until the first claim held by another owner than `who` expires, unless extended; None without any."""
        now = self.db.now()
        query = sa.select(sa.func.min(jobs.c.until) - now).where(
            jobs.c.board == self.name, jobs.c.trashed == sa.false(), jobs.c.owner != who, jobs.c.until >= now
        )
        with self.db.read() as conn:
            left = conn.execute(query).scalar_one()
        return None if left is None else float(left)

    def find_owner(self, job: SqlJob) -> str | None:
        """The current owner of a job."""
        row = self.look(job)
        return row.owner if row is not None and row.owner and row.until >= row.now else None

    @property
    def job_count(self) -> int:
        """Number of jobs on the board, including claimed ones."""
        query = sa.select(sa.func.count()).where(jobs.c.board == self.name, jobs.c.trashed == sa.false())
        with self.db.read() as conn:
            return int(conn.execute(query).scalar_one())

    # Holding

    @base.check_who  # type: ignore[untyped-decorator]
    def claim(self, job: SqlJob, who: str, expiry: float | None = None) -> None:
        """Hold a job for `expiry` seconds; raises TaskFlow's UnclaimableJob or NotFound.

        A claimed job can't be claimed, not even under the same name: names are a process's own.
        """

        def work(conn: sa.Connection) -> tuple[float, bool, Any]:
            asked, now = time.monotonic(), self.db.now()
            past = sa.select(jobs.c.until, now.label("now")).where(jobs.c.uuid == job.uuid, jobs.c.until > 0)
            before = conn.execute(past).first()
            job.idle = 0.0 if before is None else max(0.0, before.now - before.until)
            this = (jobs.c.uuid == job.uuid, jobs.c.trashed == sa.false())
            won = leases.take(conn, jobs, who, float(expiry or self._lease), *this, fence=jobs.c.fence + 1)
            return asked, won, conn.execute(sa.select(jobs).where(jobs.c.uuid == job.uuid)).first()

        asked, won, row = self.db.transact(work)
        if row is None:
            raise exceptions.NotFound(f"Job {job.name} is not on the board")
        if not won:
            raise exceptions.UnclaimableJob(f"Job {job.name} is held by {row.owner}")
        job.fence, job.owner, job.asked = row.fence, row.owner, asked

    def held(self, uuid: str, fence: int, owner: str) -> SqlJob:
        """A job that this owner has claimed, for another process of it. Raises ClaimLost."""
        asked = time.monotonic()
        with self.db.read() as conn:
            row = conn.execute(sa.select(jobs).where(jobs.c.uuid == uuid)).first()
        if row is None or (row.fence, row.owner) != (fence, owner):
            raise ClaimLost
        job = SqlJob(self, row, self._persistence)
        job.asked = asked
        return job

    @staticmethod
    def _mine(job: SqlJob, who: str | None = None) -> Sequence[sa.ColumnElement[bool]]:
        """The claim's time is not checked: it says when other conductors may take the job, and the fence whether one did."""
        return (
            jobs.c.uuid == job.uuid,
            jobs.c.fence == job.fence,
            jobs.c.owner == (who or job.owner or ""),
            jobs.c.trashed == sa.false(),
        )

    def prove(self, conn: sa.Connection, job: SqlJob) -> None:
        """Raise ClaimLost when another conductor has claimed the job; none can before the transaction ends.

        Locks the job's row (on SQLite the write transaction has locked the whole database already).
        """
        query = sa.select(jobs.c.seq).where(*self._mine(job)).with_for_update(key_share=True)
        if conn.execute(query).first() is None:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def extend(self, job: SqlJob, seconds: float | None = None) -> bool:
        """Extend a claim to `seconds` from now, even after it expired, unless another conductor was faster; -> False when it is lost."""
        return not self.db.transact(lambda conn: self.extend_in(conn, [job], seconds))

    def extend_in(self, conn: sa.Connection, held: Iterable[SqlJob], seconds: float | None = None) -> list[SqlJob]:
        """Extend many claims with one statement, inside the caller's transaction; -> those that are lost."""
        held = list(held)
        if not held:
            return []
        mine = sa.or_(*(sa.and_(*self._mine(job)) for job in held))
        until = self.db.now() + float(seconds or self._lease)
        if conn.execute(sa.update(jobs).where(mine).values(until=until)).rowcount == len(held):
            return []
        alive = {tuple(row) for row in conn.execute(sa.select(jobs.c.uuid, jobs.c.fence).where(mine))}
        return [job for job in held if (job.uuid, job.fence) not in alive]

    # Ending

    def consume_in(self, conn: sa.Connection, job: SqlJob) -> None:
        """Remove a job that we hold, inside the caller's transaction; raises ClaimLost."""
        if conn.execute(sa.delete(jobs).where(*self._mine(job))).rowcount != 1:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def abandon_in(self, conn: sa.Connection, job: SqlJob) -> None:
        """Give back a job that we hold, inside the caller's transaction; raises ClaimLost."""
        if conn.execute(sa.update(jobs).where(*self._mine(job)).values(owner=None, until=self.db.now())).rowcount != 1:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")

    def postpone_in(self, conn: sa.Connection, job: SqlJob, waits: Mapping[str, Any]) -> None:
        """Give back a job that we hold until what it waits for is there; it keeps its place. Raises ClaimLost.

        `waits`: JSON, with what a user is told as "why".
        """
        values = {"owner": None, "until": self.db.now(), "details": {"waits": dict(waits)}}
        if conn.execute(sa.update(jobs).where(*self._mine(job)).values(values)).rowcount != 1:
            raise ClaimLost(f"build {job.name}: {job.owner} no longer holds it")
        self._hurry(conn, AGAIN, jobs.c.uuid == job.uuid)

    def note_in(self, conn: sa.Connection, uuid: str, waits: Mapping[str, Any] | None) -> None:
        """Change what a job waits for; None: for nothing any more."""
        details = {} if waits is None else {"waits": dict(waits)}
        conn.execute(sa.update(jobs).where(jobs.c.uuid == uuid).values(details=details))

    def hurry_in(self, conn: sa.Connection, *ids: str) -> None:
        """These builds were asked to end: their jobs, if they have some, come before all others."""
        self._hurry(conn, REVERT, jobs.c.name.in_(ids), jobs.c.board == self.name)

    @staticmethod
    def _hurry(conn: sa.Connection, to: base.JobPriority, *where: sa.ColumnElement[bool]) -> None:
        number = _PRIORITIES[to]
        conn.execute(sa.update(jobs).where(*where, jobs.c.priority > number).values(priority=number))

    def withdraw_in(self, conn: sa.Connection, build_id: str) -> bool:
        """Remove the job of a build unless it is claimed, inside the caller's transaction; -> whether it was removed."""
        free = (jobs.c.name == build_id, jobs.c.board == self.name, leases.free(jobs, self.db.dialect))
        return conn.execute(sa.delete(jobs).where(*free)).rowcount == 1

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
        """Set aside a broken job that `who` holds; raises TaskFlow's JobFailure or NotFound."""
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
        """Nothing to do: our conductors write their own heartbeat (persistence.conductors)."""

    @property
    def connected(self) -> bool:
        """Between `connect` and `close`."""
        return self._connected

    def connect(self) -> None:
        """Make sure that the tables exist."""
        schema.ready(self.db)
        self._connected = True

    def close(self) -> None:
        """End; closes the Database only if the board made it."""
        self._connected = False
        self._posted.set()
        if self._own:
            self.db.close()
