"""A row that is one owner's for a while: taken by one only, renewed, given back, run out; on all three databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from imageflow.persistence import leases
from imageflow.persistence import rebuilds as rows
from imageflow.persistence.database import Database
from imageflow.persistence.tables import rebuilds as table

T = TypeVar("T")
OVER = -1.0  # seconds: a lease that has run out already
WEB, BASE = table.c.image == "web", table.c.image == "base"


@pytest.fixture
def two(database: Database) -> Database:
    """A database with two rows that nobody holds."""
    for image in ("web", "base"):
        database.transact(lambda conn, image=image: rows.ask(conn, image, now=1.0))  # type: ignore[misc]
    return database


def do(database: Database, work: Callable[..., T], *args: Any, **more: Any) -> T:
    return database.transact(lambda conn: work(conn, table, *args, **more))


def found(database: Database, condition: Callable[[str], sa.ColumnElement[bool]]) -> list[str]:
    with database.read() as conn:
        query = sa.select(table.c.image).where(condition(conn.dialect.name)).order_by(table.c.image)
        return list(conn.execute(query).scalars())


def free(database: Database, owner: str | None = None) -> list[str]:
    return found(database, lambda dialect: leases.free(table, dialect, owner))


def held(database: Database, owner: str) -> list[str]:
    return found(database, lambda dialect: sa.and_(table.c.owner == owner, sa.not_(leases.free(table, dialect))))


def test_who_takes_a_row_has_it_alone_until_it_is_given_back(two: Database) -> None:
    assert free(two) == ["base", "web"] and held(two, "me") == []
    assert do(two, leases.take, "me", 60.0, WEB, held="mine")
    assert free(two) == ["base"] and held(two, "me") == ["web"] and held(two, "other") == []
    assert not do(two, leases.take, "other", 60.0, WEB, held="stolen")
    assert not do(two, leases.release, "other", WEB, held="stolen")
    assert do(two, leases.release, "me", WEB, retry=7.0)
    assert free(two) == ["base", "web"] and held(two, "me") == []
    with two.read() as conn:
        assert tuple(conn.execute(sa.select(table.c.held, table.c.retry, table.c.until).where(WEB)).one()) == (
            "mine",
            7.0,
            0.0,
        )
    assert not do(two, leases.release, "me", WEB)


def test_an_owner_takes_its_own_row_again_only_where_it_says_so(two: Database) -> None:
    assert do(two, leases.take, "me", 60.0, WEB)
    assert not do(two, leases.take, "me", 60.0, WEB)
    assert free(two, "me") == ["base", "web"] and free(two, "other") == ["base"]
    assert do(two, leases.take, "me", 60.0, WEB, again=True)
    assert not do(two, leases.take, "other", 60.0, WEB, again=True)


def test_a_lease_that_ran_out_is_its_owners_until_another_takes_it(two: Database) -> None:
    assert do(two, leases.take, "me", OVER, WEB)
    assert free(two) == ["base", "web"] and held(two, "me") == []
    assert do(two, leases.renew, "me", 60.0, WEB) == 1 and held(two, "me") == ["web"]
    assert do(two, leases.renew, "me", OVER, WEB) == 1
    assert do(two, leases.take, "other", 60.0, WEB)
    assert do(two, leases.renew, "me", 60.0, WEB) == 0 and not do(two, leases.release, "me", WEB)
    assert held(two, "other") == ["web"]


def test_several_are_renewed_at_once_and_only_ones_own(two: Database) -> None:
    assert do(two, leases.take, "me", OVER, WEB) and do(two, leases.take, "me", OVER, BASE)
    assert do(two, leases.renew, "me", 60.0, sa.or_(WEB, BASE)) == 2 and held(two, "me") == ["base", "web"]
    assert do(two, leases.release, "me", BASE) and do(two, leases.take, "other", OVER, BASE)
    assert do(two, leases.renew, "me", 60.0, sa.or_(WEB, BASE)) == 1 and held(two, "other") == []


def test_of_many_that_take_a_row_at_once_one_has_it(two: Database) -> None:
    owners = [f"owner {number}" for number in range(6)]
    gate = threading.Barrier(len(owners))

    def take(owner: str) -> bool:
        gate.wait(60)
        return do(two, leases.take, owner, 60.0, WEB)

    with ThreadPoolExecutor(len(owners)) as pool:
        won = [owner for owner, taken in zip(owners, pool.map(take, owners), strict=True) if taken]
    assert len(won) == 1 and held(two, won[0]) == ["web"]


def test_owners_are_named_after_their_host_and_no_two_alike() -> None:
    names = {leases.new_owner("builder-1") for _ in range(100)}
    assert len(names) == 100 and all(name.startswith("builder-1:") for name in names)
