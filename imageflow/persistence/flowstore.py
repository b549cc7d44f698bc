"""TaskFlow's persistence on our database: fenced writes, step records in the same transaction, half the commits."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT
from taskflow import exceptions, states
from taskflow.persistence import models
from taskflow.persistence.backends import impl_sqlalchemy as stock
from taskflow.persistence.backends.sqlalchemy import tables as stock_tables
from taskflow.storage import META_PROGRESS, META_PROGRESS_DETAILS

from imageflow.errors import Refused
from imageflow.persistence.database import Database
from imageflow.persistence.patience import BUILD
from imageflow.persistence.tables import builds, metadata

T = TypeVar("T")
Prove = Callable[[sa.Connection], None]
OnAtom = Callable[[sa.Connection, Any, Any], None]
Clean = Callable[[str], str]


class LongJson(stock_tables.JSONType):  # type: ignore[misc]  # taskflow has no types
    """TaskFlow's JSON column; on MariaDB 4 GiB instead of 64 KiB."""

    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(LONGTEXT())
        return super().load_dialect_impl(dialect)


def _tables() -> Any:
    """TaskFlow's tables in our metadata, once per process: the stock backend makes new ones for each connection."""
    tables = stock_tables.fetch(metadata)
    for table in tables:
        for column in table.columns:
            if isinstance(column.type, stock_tables.JSONType):
                column.type = LongJson()
        for constraint in list(table.constraints):
            if isinstance(constraint, sa.UniqueConstraint):  # of the primary key, which is unique anyway
                table.constraints.discard(constraint)
    for table in (tables.flowdetails, tables.atomdetails):
        sa.Index(None, table.c.parent_uuid)
    return tables


TABLES = _tables()
_CONVERTER = stock._Alchemist(TABLES)


class FlowStore(stock.SQLAlchemyBackend):  # type: ignore[misc]
    """A TaskFlow persistence backend on `db`; `fenced` gives the view with which an engine runs one build.

    A write that finds the database down is retried as a whole for `patience` seconds; then it
    raises DatabaseUnavailable.
    """

    def __init__(
        self,
        db: Database,
        *,
        prove: Prove | None = None,
        on_atom: OnAtom | None = None,
        clean: Clean | None = None,
        patience: float = BUILD,
    ) -> None:
        super().__init__({}, engine=db.engine)
        self.db = db
        self.prove = prove
        self.on_atom = on_atom
        self.clean = clean
        self.patience = patience
        # Atoms as this view last wrote them: only the holder of the claim writes, so they need not be read.
        self.written: dict[str, Any] | None = None if prove is None else {}

    def fenced(
        self,
        prove: Prove,
        on_atom: OnAtom | None = None,
        patience: float | None = None,
        clean: Clean | None = None,
    ) -> FlowStore:
        """A view for one running build.

        Every write transaction calls `prove(conn)` first: when it raises (ClaimLost), nothing is written.
        `on_atom(conn, before, after)` is called in the transaction of every change of an atom's state, with
        TaskFlow's atom details; what it writes commits with the state or not at all. It may be called again
        for the same change when the transaction is repeated, so it must do nothing outside of `conn`.

        `clean` masks secrets in every stored text of an atom: a command's output is part of its failure.

        An atom that a dead worker left RUNNING changes no state when TaskFlow executes it again: call
        `storage.reset(name)` for it first, or `on_atom` (and TaskFlow's listeners) will not notice it.
        """
        patience = self.patience if patience is None else patience
        return FlowStore(self.db, prove=prove, on_atom=on_atom, clean=clean, patience=patience)

    def get_connection(self) -> FlowConnection:
        """TaskFlow's connection to this backend; cheap."""
        return FlowConnection(self)

    def insert(self, conn: sa.Connection, book: models.LogBook) -> None:
        """Write a new logbook with its flow details, inside the caller's transaction."""
        FlowConnection(self, conn).save_logbook(book)

    def delete(self, conn: sa.Connection, book_uuid: str) -> None:
        """Remove a logbook with all its flows and atoms, inside the caller's transaction; an absent one is fine."""
        conn.execute(sa.delete(TABLES.logbooks).where(TABLES.logbooks.c.uuid == book_uuid))

    def forget_orphans(self, conn: sa.Connection, limit: int = 100) -> int:
        """Remove logbooks whose builds are gone, inside the caller's transaction; -> how many."""
        ours = sa.select(builds.c.flow)  # one list of all: EXISTS would read all builds for each logbook in SQLite
        old = list(
            conn.scalars(sa.select(TABLES.logbooks.c.uuid).where(TABLES.logbooks.c.uuid.not_in(ours)).limit(limit))
        )
        conn.execute(sa.delete(TABLES.logbooks).where(TABLES.logbooks.c.uuid.in_(old)))
        return len(old)

    def reset_failed(self, conn: sa.Connection, flow_uuid: str) -> list[str]:
        """Let the failed atoms of a flow run again, inside the caller's transaction; -> their names."""
        query = sa.select(TABLES.atomdetails).where(
            TABLES.atomdetails.c.parent_uuid == flow_uuid, TABLES.atomdetails.c.state == states.FAILURE
        )
        atoms = [_CONVERTER.convert_atom_detail(row._mapping) for row in conn.execute(query)]
        for atom in atoms:
            atom.reset(states.PENDING)
            conn.execute(
                sa.update(TABLES.atomdetails).where(TABLES.atomdetails.c.uuid == atom.uuid).values(atom.to_dict())
            )
        return [atom.name for atom in atoms]

    def close(self) -> None:
        """Nothing to do: the Database belongs to the caller."""


class _Doors:
    """Stands in for an engine in TaskFlow's stock code: each transaction goes through our Database and fence."""

    def __init__(self, store: FlowStore, conn: sa.Connection | None) -> None:
        self._store = store
        self._conn = conn

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        if self._conn is not None:
            yield self._conn
            return
        with self._store.db.begin() as conn:
            if self._store.prove is not None:
                self._store.prove(conn)
            yield conn

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        if self._conn is not None:
            yield self._conn
            return
        with self._store.db.read() as conn:
            yield conn


class FlowConnection(stock.Connection):  # type: ignore[misc]
    """TaskFlow's connection; with `conn`, everything happens inside that transaction of the caller."""

    def __init__(self, store: FlowStore, conn: sa.Connection | None = None) -> None:
        self._backend = self._store = store
        self._metadata, self._tables, self._converter = metadata, TABLES, _CONVERTER
        self._engine = _Doors(store, conn)
        self._borrowed = conn is not None

    def validate(self, max_retries: int = 0) -> None:
        """Nothing to do: the first transaction shows it."""

    def upgrade(self) -> None:
        """Nothing to do: TaskFlow's tables come with ours (persistence.schema)."""

    def _whole(self, operation: Callable[[], T]) -> T:
        """Run an operation that is one transaction; retried as a whole while the database is down."""
        try:
            if self._borrowed:
                return operation()
            return self._store.db.repeat(operation, self._store.patience)
        except sa.exc.StatementError as error:
            if isinstance(error, sa.exc.DBAPIError):
                raise exceptions.StorageFailure(f"the flow can't be stored: {error.orig}") from error
            raise Refused(f"a result of a step can't be stored: {error.orig}", hint="it must be plain JSON") from error

    def update_atom_details(self, atom_detail: Any) -> Any:
        """Write one atom; its state change also goes to `on_atom`, in the same transaction."""
        if self._only_progress(atom_detail):
            # TaskFlow commits its own progress twice per atom; the recorder keeps progress, so it goes with the next write.
            return atom_detail
        self._whole(lambda: self._write_atom(atom_detail))
        self._remember(atom_detail)
        return atom_detail

    def _write_atom(self, atom: Any) -> None:
        with self._engine.begin() as conn:
            # Removed, so that a repeated transaction reads what an earlier attempt may have written after all.
            before = self._forget(atom.uuid)
            if before is None:
                query = sa.select(TABLES.atomdetails).where(TABLES.atomdetails.c.uuid == atom.uuid)
                row = conn.execute(query).first()
                if row is None:
                    raise exceptions.NotFound(f"No atom details found with uuid '{atom.uuid}'")
                before = _CONVERTER.convert_atom_detail(row._mapping)
            self._put(conn, before, atom)

    def _put(self, conn: sa.Connection, before: Any, atom: Any) -> None:
        statement = sa.update(TABLES.atomdetails).where(TABLES.atomdetails.c.uuid == atom.uuid)
        values = atom.to_dict()
        if self._store.clean is not None:
            values = _cleaned(values, self._store.clean)
        if conn.execute(statement.values(values)).rowcount == 0:
            raise exceptions.NotFound(f"No atom details found with uuid '{atom.uuid}'")
        if self._store.on_atom is not None and before.state != atom.state:
            self._store.on_atom(conn, before, atom)

    def update_flow_details(self, flow_detail: Any) -> Any:
        """Write a flow, its new atoms and its changed ones."""
        changed: list[Any] = self._whole(lambda: self._write_flow(flow_detail))
        for atom in changed:
            self._remember(atom)
        return flow_detail

    def _write_flow(self, flow: Any) -> list[Any]:
        with self._engine.begin() as conn:
            statement = sa.update(TABLES.flowdetails).where(TABLES.flowdetails.c.uuid == flow.uuid)
            if conn.execute(statement.values(flow.to_dict())).rowcount == 0:
                raise exceptions.NotFound(f"No flow details found with uuid '{flow.uuid}'")
            known = self._store.written or {}
            if any(atom.uuid not in known for atom in flow):
                known = {atom.uuid: atom for atom in _CONVERTER.atom_query_iter(conn, flow.uuid)}
            changed = [(known.get(a.uuid), a) for a in flow if a.uuid not in known or not _same(known[a.uuid], a)]
            for before, atom in changed:
                self._forget(atom.uuid)
                if before is None:
                    self._insert_atom_details(conn, atom, flow.uuid)
                else:
                    self._put(conn, before, atom)
            return [atom for _, atom in changed]

    def get_flow_details(self, fd_uuid: str, lazy: bool = False) -> Any:
        """A flow by its uuid, with its atoms unless `lazy`; raises taskflow's NotFound."""

        def read() -> Any:
            with self._engine.connect() as conn:
                query = sa.select(TABLES.flowdetails).where(TABLES.flowdetails.c.uuid == fd_uuid)
                row = conn.execute(query).first()
                if row is None:
                    raise exceptions.NotFound(f"No flow details found with uuid '{fd_uuid}'")
                flow = _CONVERTER.convert_flow_detail(row._mapping)
                if not lazy:
                    _CONVERTER.populate_flow_detail(conn, flow)
                return flow

        flow = self._whole(read)
        for atom in flow:
            self._remember(atom)
        return flow

    def get_atom_details(self, ad_uuid: str) -> Any:
        """An atom by its uuid; raises taskflow's NotFound."""
        return self._whole(lambda: super(FlowConnection, self).get_atom_details(ad_uuid))

    def save_logbook(self, book: models.LogBook) -> Any:
        """Write a logbook with everything in it."""
        return self._whole(lambda: super(FlowConnection, self).save_logbook(book))

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> Any:
        """A logbook by its uuid; raises taskflow's NotFound."""
        return self._whole(lambda: super(FlowConnection, self).get_logbook(book_uuid, lazy))

    def destroy_logbook(self, book_uuid: str) -> None:
        """Remove a logbook with everything in it; raises taskflow's NotFound."""
        self._whole(lambda: super(FlowConnection, self).destroy_logbook(book_uuid))

    def clear_all(self) -> None:
        """Remove all logbooks."""
        self._whole(super().clear_all)

    def _remember(self, atom: Any) -> None:
        if self._store.written is not None:
            self._store.written[atom.uuid] = _snapshot(atom)

    def _forget(self, uuid: str) -> Any:
        return None if self._store.written is None else self._store.written.pop(uuid, None)

    def _only_progress(self, atom: Any) -> bool:
        before = (self._store.written or {}).get(atom.uuid)
        return (
            before is not None
            and before.meta != atom.meta
            and _lasting(before.meta) == _lasting(atom.meta)
            and _same(before, atom, meta=False)
        )


def _cleaned(value: Any, clean: Clean) -> Any:
    """A JSON value with every text in it cleaned; keys are names from TaskFlow and the tasks."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {key: _cleaned(item, clean) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, clean) for item in value]
    return value


def _snapshot(atom: Any) -> Any:
    """A copy that keeps its own meta: TaskFlow changes nested values in place."""
    kept = atom.copy()
    kept.meta = copy.deepcopy(atom.meta)
    return kept


def _lasting(meta: dict[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (meta or {}).items() if k not in (META_PROGRESS, META_PROGRESS_DETAILS)}


def _same(before: Any, after: Any, meta: bool = True) -> bool:
    names = ["state", "intention", "version", "failure", "revert_failure", "results", "revert_results"]
    return all(
        getattr(before, name) is getattr(after, name) or getattr(before, name) == getattr(after, name)
        for name in ([*names, "meta"] if meta else names)
    )
