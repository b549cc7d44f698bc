"""Tokens of ours: what they look like, what is kept of them, and when they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from imageflow.access.tokens import LIFE, PREFIX, Tokens, digest, generate, id_of
from imageflow.errors import BadInput, NotFound
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import api_tokens


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    schema.ready(database)
    return database


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


def change(database: Database, **values: object) -> None:
    with database.begin() as conn:
        conn.execute(sa.update(api_tokens).values(**values))


def test_a_token_is_known_by_its_prefix_id_and_checksum() -> None:
    for _ in range(200):
        token, id = generate()
        assert token.startswith(PREFIX) and token.isascii() and len(token) == 3 + 1 + 12 + 1 + 43 + 6
        assert id_of(token) == id


@given(st.integers(0, 200), st.characters())
def test_a_mistyped_token_needs_no_look(at: int, typed: str) -> None:
    token, _ = generate()
    at %= len(token)
    wrong = token[:at] + typed + token[at + 1 :]
    assert id_of(wrong) is None or wrong == token


@given(st.text())
def test_any_text_may_be_sent(text: str) -> None:
    assert id_of(text) is None
    assert id_of(PREFIX + text) is None


def test_only_the_hash_is_kept(tokens: Tokens, database: Database, tmp_path: Path) -> None:
    token, made = tokens.create("heat", "member", project="web")
    secret = token.rpartition("_")[2]
    with database.read() as conn:
        (row,) = conn.execute(sa.select(api_tokens)).all()
    assert row.hash == digest(token)
    database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.id.encode() in kept and secret.encode() not in kept and secret[:20].encode() not in kept


def test_it_tells_project_and_role_until_it_expires(tokens: Tokens, database: Database) -> None:
    token, made = tokens.create("heat", "member", project="web")
    assert made.expires is not None and made.expires - made.created == pytest.approx(LIFE, abs=1)
    found = tokens.check(token)
    assert found is not None and (found.id, found.project, found.role) == (made.id, "web", "member")
    change(database, expires=made.created)
    assert tokens.check(token) is None
    assert tokens.select()[0].state(made.created + 1) == "expired"


def test_one_without_an_end_says_so(tokens: Tokens) -> None:
    token, made = tokens.create("x", "reader", life=None)
    assert made.expires is None
    assert tokens.check(token) is not None


def test_a_revoked_one_is_refused_and_stays_listed(tokens: Tokens) -> None:
    token, made = tokens.create("x", "reader")
    first = tokens.revoke(made.id)
    assert first.revoked is not None
    assert tokens.revoke(made.id) == first
    assert tokens.check(token) is None
    assert [one.state(0) for one in tokens.select()] == ["revoked"]
    with pytest.raises(NotFound):
        tokens.revoke("0" * 12)


def test_the_right_id_with_another_secret_is_refused(tokens: Tokens, database: Database) -> None:
    token, _ = tokens.create("x", "reader")
    other, other_id = generate()
    assert tokens.check(other) is None
    change(database, hash=digest(other))
    assert tokens.check(token) is None
    change(database, id=other_id)
    assert tokens.check(other) is not None


def test_a_check_is_one_read_by_the_primary_key(tokens: Tokens, database: Database) -> None:
    token, _ = tokens.create("x", "reader")
    seen: list[tuple[str, object]] = []
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda _c, _cur, sql, values, *_a: seen.append((sql, values))
    )
    for one in (token, generate()[0]):  # known or not, it is the same work
        seen.clear()
        tokens.check(one)
        statements = [(sql, values) for sql, values in seen if sql != "BEGIN"]
        assert len(statements) == 1
    sql, values = statements[0]
    with database.read() as conn:
        plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()
    assert [row.detail for row in plan] == ["SEARCH api_tokens USING INDEX sqlite_autoindex_api_tokens_1 (id=?)"]


def test_a_use_is_noted_once_an_hour(tokens: Tokens, database: Database) -> None:
    _, made = tokens.create("x", "reader")
    tokens.used(made)
    (first,) = tokens.select()
    assert first.last_used is not None
    tokens.used(made)
    assert tokens.select() == [first]
    change(database, last_used=first.last_used - 3601)
    tokens.used(made)
    assert (tokens.select()[0].last_used or 0) >= first.last_used


def test_a_use_that_cant_be_noted_fails_nothing(tokens: Tokens, database: Database) -> None:
    _, made = tokens.create("x", "reader")
    database.close()
    assert database.path
    database.path.write_bytes(b"not a database" * 100)
    tokens.used(made)


@pytest.mark.parametrize(
    ("name", "role", "project"),
    [
        ("", "reader", "p"),
        ("a\nb", "reader", "p"),
        ("a" * 256, "reader", "p"),
        ("a", "owner", "p"),
        ("a", "reader", ""),
    ],
)
def test_what_makes_no_token(tokens: Tokens, name: str, role: str, project: str) -> None:
    with pytest.raises(BadInput):
        tokens.create(name, role, project=project)
    assert tokens.select() == []
