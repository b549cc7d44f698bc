"""TaskFlow on our database: fenced writes, step records in the same transaction; on all three databases."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow import engines, task
from taskflow import exceptions as taskflow_exceptions
from taskflow.patterns import linear_flow, unordered_flow
from taskflow.persistence import models
from taskflow.types.failure import Failure

from imageflow.errors import ClaimLost, DatabaseUnavailable, ImageflowError, Refused
from imageflow.model import Build, BuildState, StepState
from imageflow.persistence import builds, schema, steps, tables
from imageflow.persistence.database import Database
from imageflow.persistence.flowstore import TABLES, FlowStore
from imageflow.persistence.jobboard import SqlJob, SqlJobBoard

HOOKS: dict[str, Callable[[], Any]] = {}


class Step(task.Task):  # type: ignore[misc]
    """A task that does what the test says."""

    def execute(self) -> Any:
        return HOOKS.get(self.name, lambda: {"by": self.name})()

    def revert(self, result: Any, **_: Any) -> Any:
        return HOOKS.get(f"revert {self.name}", lambda: None)()


@dataclass
class Bench:
    """One claimed build with a flow, as the engine has it."""

    db: Database
    store: FlowStore
    board: SqlJobBoard
    job: SqlJob
    build: Build
    book: models.LogBook
    flow: models.FlowDetail
    changes: list[tuple[str, str, str]] = field(default_factory=list)

    def record(self, conn: sa.Connection, before: Any, after: Any) -> None:
        """What the recorder does."""
        self.changes.append((after.name, before.state, after.state))
        if after.state == "RUNNING":
            steps.begin(conn, self.build.id, after.name, position=0, started=1.0)
        elif (last := steps.last(conn, self.build.id, after.name)) is not None and after.state == "SUCCESS":
            steps.finish(conn, self.build.id, after.name, last.attempt, StepState.SUCCEEDED, ended=2.0)

    def view(self, patience: float = 0.0) -> FlowStore:
        """The backend of an engine that runs this build."""
        return self.store.fenced(lambda conn: self.board.prove(conn, self.job), self.record, patience)

    def engine(self, *names: str, view: FlowStore | None = None, **options: Any) -> Any:
        """An engine for a linear flow of these tasks."""
        view = view or self.view()
        detail = view.get_connection().get_flow_details(self.flow.uuid)
        flow = linear_flow.Flow("f").add(*(Step(name) for name in names))
        return engines.load(flow, flow_detail=detail, backend=view, **options)

    def states(self) -> dict[str, str]:
        """The atoms as they are in the database."""
        with self.db.read() as conn:
            rows = conn.execute(sa.select(TABLES.atomdetails.c.name, TABLES.atomdetails.c.state))
            return {row.name: row.state for row in rows}

    def attempts(self) -> list[tuple[str, int, str]]:
        """The step records as they are in the database."""
        with self.db.read() as conn:
            found = [(s.name, s.attempt, s.state.value) for s in steps.of(conn, self.build.id)]
        return sorted(found)

    def take_over(self) -> None:
        """The lease is over and another worker holds the job."""
        other = next(self.board.iterjobs())
        with self.db.begin() as conn:
            conn.execute(sa.update(tables.jobs).values(until=0.0))
        self.board.claim(other, "other")


def a_bench(db: Database) -> Bench:
    store, board = FlowStore(db), SqlJobBoard("imageflow", {}, database=db)
    book, flow = models.LogBook("book"), models.FlowDetail("f", uuid=str(uuid.uuid4()))
    flow.meta = {"store": {"n": 1}}
    book.add(flow)
    build = Build(
        id=uuid.uuid4().hex[:12],
        image="web",
        method="dib",
        state=BuildState.RUNNING,
        reason="",
        key="k",
        flow=flow.uuid,
        created=1.0,
    )
    with db.begin() as conn:
        assert builds.claim_or_holder(conn, build) is None
        store.insert(conn, book)
        board.post_in(conn, build.id, {})
    job = next(board.iterjobs(only_unclaimed=True))
    board.claim(job, "me", expiry=600)
    return Bench(db, store, board, job, build, book, flow)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """TaskFlow logs each failure that we cause."""
    HOOKS.clear()
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def bench(database: Database) -> Bench:
    """A claimed build on each database."""
    return a_bench(database)


def test_a_flow_runs_and_steps_commit_with_atoms(bench: Bench) -> None:
    bench.engine("a", "b").run()
    assert bench.states() == {"a": "SUCCESS", "b": "SUCCESS"}
    assert bench.attempts() == [("a", 1, "succeeded"), ("b", 1, "succeeded")]
    assert bench.changes[:2] == [("a", "PENDING", "RUNNING"), ("a", "RUNNING", "SUCCESS")]
    stored = bench.store.get_connection().get_flow_details(bench.flow.uuid)
    assert stored.state == "SUCCESS" and stored.meta == {"store": {"n": 1}}
    assert {a.name: a.results for a in stored} == {"a": {"by": "a"}, "b": {"by": "b"}}


def test_the_intake_commits_together_or_not_at_all(database: Database) -> None:
    store = FlowStore(database)
    book, flow = models.LogBook("book"), models.FlowDetail("f", uuid="f1")
    book.add(flow)
    with pytest.raises(ImageflowError), database.begin() as conn:
        store.insert(conn, book)
        raise ImageflowError("no")
    with pytest.raises(taskflow_exceptions.NotFound):
        store.get_connection().get_flow_details("f1")
    with database.begin() as conn:
        store.insert(conn, book)
    assert store.get_connection().get_flow_details("f1").name == "f"


def test_two_commits_an_atom(bench: Bench) -> None:
    engine = bench.engine(*(f"t{n}" for n in range(10)))
    engine.compile()
    engine.prepare()
    commits: list[int] = []
    sa.event.listen(bench.db.engine, "commit", lambda conn: commits.append(1))
    engine.run()
    assert len(commits) <= 2 * 10 + 4  # and a few for the state of the flow


def test_progress_goes_with_the_next_write(bench: Bench) -> None:
    view = bench.view()
    conn = view.get_connection()
    engine = bench.engine("a", view=view)
    engine.compile()
    engine.prepare()
    storage = engine.storage
    storage.set_atom_state("a", "RUNNING")
    storage.set_task_progress("a", 0.5)
    assert storage.get_task_progress("a") == 0.5
    (stored,) = bench.store.get_connection().get_flow_details(bench.flow.uuid)
    assert "progress" not in (stored.meta or {})
    storage.update_atom_metadata("a", {"kept": 1})  # no progress: written at once, and the progress with it
    (stored,) = conn.get_flow_details(bench.flow.uuid)
    assert stored.meta == {"progress": 0.5, "kept": 1}


def test_what_is_injected_is_stored(bench: Bench) -> None:
    engine = bench.engine("a")
    engine.compile()
    engine.prepare()
    for number in (1, 2, 3):  # TaskFlow changes these values in place
        engine.storage.inject_atom_args("a", {f"arg{number}": number}, transient=False)
        engine.storage.inject({f"all{number}": number})
    stored = {a.name: a for a in bench.store.get_connection().get_flow_details(bench.flow.uuid)}
    assert stored["a"].meta["injected"] == {"arg1": 1, "arg2": 2, "arg3": 3}
    assert stored["_TaskFlow_INJECTOR"].results == {"all1": 1, "all2": 2, "all3": 3}


def test_a_zombie_writes_nothing(bench: Bench) -> None:
    ran: list[str] = []
    HOOKS["b"] = bench.take_over
    HOOKS["c"] = lambda: ran.append("c")
    with pytest.raises(ClaimLost):
        bench.engine("a", "b", "c").run()
    assert not ran
    assert bench.states() == {"a": "SUCCESS", "b": "RUNNING", "c": "PENDING"}
    assert bench.attempts() == [("a", 1, "succeeded"), ("b", 1, "running")]


def test_an_exception_of_the_recorder_stores_neither(bench: Bench) -> None:
    def refuse(conn: sa.Connection, before: Any, after: Any) -> None:
        bench.record(conn, before, after)
        raise Refused("no")

    view = bench.store.fenced(lambda conn: bench.board.prove(conn, bench.job), refuse)
    with pytest.raises(Refused):
        bench.engine("a", view=view).run()
    assert bench.states() == {"a": "PENDING"} and bench.attempts() == []


def test_another_worker_goes_on_where_the_first_was_killed(bench: Bench) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    HOOKS["b"] = die
    with pytest.raises(Killed):
        bench.engine("a", "b", "c").run()
    assert bench.states() == {"a": "SUCCESS", "b": "RUNNING", "c": "PENDING"}
    HOOKS.clear()
    view = bench.view()
    engine = bench.engine("a", "b", "c", view=view)
    engine.compile()
    engine.storage.reset("b")
    engine.run()
    assert bench.attempts() == [
        ("a", 1, "succeeded"),
        ("b", 1, "failed"),  # interrupted: its worker died
        ("b", 2, "succeeded"),
        ("c", 1, "succeeded"),
    ]


def test_failures_and_reverts_are_stored(bench: Bench) -> None:
    def fail() -> None:
        raise OSError("disk on fire")

    HOOKS["b"] = fail
    with pytest.raises(OSError, match="on fire"):
        bench.engine("a", "b").run()
    stored = {a.name: a for a in bench.store.get_connection().get_flow_details(bench.flow.uuid)}
    assert {n: a.state for n, a in stored.items()} == {"a": "REVERTED", "b": "REVERTED"}
    assert ("b", "RUNNING", "FAILURE") in bench.changes and ("a", "REVERTING", "REVERTED") in bench.changes
    assert isinstance(stored["b"].failure, Failure) and stored["b"].failure.check(OSError)


def test_large_results_fit(bench: Bench) -> None:
    big = {"text": "ü" * 100_000}
    HOOKS["a"] = lambda: big
    HOOKS["revert a"] = lambda: big
    HOOKS["b"] = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bench.engine("a", "b").run()
    stored = {a.name: a for a in bench.store.get_connection().get_flow_details(bench.flow.uuid)}
    assert stored["a"].revert_results == big


def test_a_parallel_engine_writes_from_its_threads(bench: Bench) -> None:
    gate = threading.Barrier(4)
    for number in range(4):
        HOOKS[f"t{number}"] = lambda: gate.wait(20)
    view = bench.view()
    detail = view.get_connection().get_flow_details(bench.flow.uuid)
    flow = unordered_flow.Flow("f").add(*(Step(f"t{n}") for n in range(4)))
    engines.load(flow, flow_detail=detail, backend=view, engine="parallel", max_workers=4).run()
    assert set(bench.states().values()) == {"SUCCESS"}
    assert bench.attempts() == [(f"t{n}", 1, "succeeded") for n in range(4)]


class AnswerLost(Database):
    """A database whose commits come through, but whose answer does not, `lose` times."""

    lose = 0

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        with super().begin() as conn:
            yield conn
        if self.lose > 0:
            self.lose -= 1
            raise DatabaseUnavailable("the answer got lost")


def test_a_write_whose_answer_got_lost_is_recorded_once(database_url: str) -> None:
    with AnswerLost(database_url) as db:
        schema.upgrade(db)
        bench = a_bench(db)
        engine = bench.engine("a", view=bench.view(patience=20))
        engine.compile()
        engine.prepare()
        for state in ("RUNNING", "SUCCESS"):
            db.lose = 2
            engine.storage.save("a", None, state) if state == "SUCCESS" else engine.storage.set_atom_state("a", state)
            assert db.lose == 0
        assert bench.changes == [("a", "PENDING", "RUNNING"), ("a", "RUNNING", "SUCCESS")]
        assert bench.attempts() == [("a", 1, "succeeded")]


def test_books_go_with_flows_and_atoms(bench: Bench) -> None:
    bench.engine("a").run()
    with bench.db.begin() as conn:
        bench.store.delete(conn, bench.book.uuid)
        bench.store.delete(conn, "absent")
    with bench.db.read() as conn:
        for table in TABLES:
            assert conn.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
    with pytest.raises(taskflow_exceptions.NotFound):
        bench.store.get_connection().get_flow_details(bench.flow.uuid)
    with pytest.raises(taskflow_exceptions.NotFound):
        bench.store.get_connection().destroy_logbook(bench.book.uuid)


def test_atoms_are_found_by_index(database: Database) -> None:
    with database.begin() as conn:
        conn.execute(sa.insert(TABLES.logbooks), [{"uuid": f"b{n}", "name": "b", "meta": {}} for n in range(500)])
        conn.execute(
            sa.insert(TABLES.flowdetails),
            [{"uuid": f"f{n}", "parent_uuid": f"b{n}", "name": "f", "meta": {}} for n in range(500)],
        )
        conn.execute(
            sa.insert(TABLES.atomdetails),
            [
                {"uuid": f"a{n}-{m}", "parent_uuid": f"f{n}", "name": f"a{m}", "atom_type": "TASK_DETAIL"}
                for n in range(500)
                for m in range(6)
            ],
        )
        conn.exec_driver_sql("ANALYZE TABLE atomdetails" if database.dialect == "mysql" else "ANALYZE atomdetails")
    query = sa.select(TABLES.atomdetails).where(TABLES.atomdetails.c.parent_uuid == "f77")
    with database.read() as conn:
        text = str(query.compile(conn, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
        plan = str(conn.exec_driver_sql(explain + text.replace("%", "%%")).all())
    assert "ix_atomdetails_parent_uuid" in plan
    assert len(FlowStore(database).get_connection().get_flow_details("f77")) == 6


def test_the_plain_backend_keeps_taskflows_contract(database: Database) -> None:
    """Without a fence it is an ordinary TaskFlow backend."""
    store = FlowStore(database)
    conn = store.get_connection()
    conn.upgrade()
    conn.validate()
    book, flow, atom = models.LogBook("b"), models.FlowDetail("f", "f1"), models.TaskDetail("t", "t1")
    book.add(flow)
    conn.save_logbook(book)
    flow.add(atom)
    flow.meta = {"a": 1}
    conn.update_flow_details(flow)
    atom.state, atom.meta = "RUNNING", {"progress": 0.5}
    conn.update_atom_details(atom)
    assert conn.get_atom_details("t1").meta == {"progress": 0.5}
    assert [b.name for b in conn.get_logbooks()] == ["b"]
    assert [f.meta for f in conn.get_flows_for_book(book.uuid)] == [{"a": 1}]
    assert [a.state for a in conn.get_atoms_for_flow("f1")] == ["RUNNING"]
    assert next(iter(conn.get_logbook(book.uuid))).find("t1").state == "RUNNING"
    for missing in (models.TaskDetail("x", "x"), models.RetryDetail("x", "x")):
        with pytest.raises(taskflow_exceptions.NotFound):
            conn.update_atom_details(missing)
    with pytest.raises(taskflow_exceptions.NotFound):
        conn.update_flow_details(models.FlowDetail("x", "x"))
    conn.clear_all()
    assert list(conn.get_logbooks()) == []
