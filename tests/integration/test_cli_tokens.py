"""`imageflow token …`, as a person and a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imageflow.access.tokens import Tokens, id_of
from imageflow.persistence.database import Database
from tests.small.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "state")


def test_a_token_is_printed_once_and_works(program: Program) -> None:
    done = program.run("token", "create", "--role", "member", "--project", "web", "heat")
    token = done.stdout.strip()
    id = id_of(token)
    assert id and id in done.stderr and token not in done.stderr
    with Database(f"sqlite:///{program.state_dir}/imageflow.db") as database:
        found = Tokens(database).check(token)
    assert found is not None and (found.role, found.project, found.name) == ("member", "web", "heat")
    (row,) = program.json("token", "list")
    assert {k: row[k] for k in ("id", "name", "role", "project", "state", "last_used")} == {
        "id": id,
        "name": "heat",
        "role": "member",
        "project": "web",
        "state": "valid",
        "last_used": None,
    }
    for words in (["list"], ["list", "-f", "json"], ["revoke", id], ["revoke", id, "-f", "json"]):
        assert token.rpartition("_")[2] not in program.run("token", *words).stdout
    assert [one["state"] for one in program.json("token", "list")] == ["revoked"]


def test_how_long_it_lasts(program: Program) -> None:
    words = ("token", "create", "--role", "reader")
    made = [
        json.loads(program.run(*words, *more, "x", "-f", "json").stdout)
        for more in ((), ("--expires", "30d"), ("--never",))
    ]
    assert made[2]["expires"] is None and made[1]["expires"] < made[0]["expires"]
    assert {id_of(one["token"]) for one in made} == {one["id"] for one in made}
    assert "never" in program.run("token", "list").stdout
    for wrong in (["--expires", "0d"], ["--expires", "soon"], ["--expires", "1d", "--never"], ["--role", "root"]):
        program.run(*words, *wrong, "x", expect=2)
    assert len(program.json("token", "list")) == 3


def test_what_is_not_there_is_not_revoked(program: Program) -> None:
    assert "no tokens" in program.run("token", "list").stderr
    done = program.run("token", "revoke", "0123456789ab", expect=2)
    assert "imageflow token list" in done.stderr
    program.run("token", "create", "--role", "reader", "x", "-c", "nothing", "-f", "json", expect=2)
    assert program.json("token", "list") == []  # a wrong -c is reported before the change
