"""Who may: a real database, real tokens, and requests to an application that asks `Access`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from httpx import Response

from imageflow import config as configuration
from imageflow.access import ROLES
from imageflow.access.keystone import THREADS
from imageflow.access.tokens import Tokens, generate
from imageflow.api import access as subject
from imageflow.api.access import Access
from imageflow.api.failures import MOST
from imageflow.errors import ConfigError
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.servers.guarded_app import Send, asked, guarded


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path}/a.db") as database:
        schema.ready(database)
        yield database


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


@pytest.fixture
def send(tmp_path: Path, tokens: Tokens) -> Iterator[Send]:
    with asked(guarded(configuration.load(["/dev/null"], str(tmp_path)), tokens)) as send:
        yield send


def code(answer: Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def hello(send: Send, token: str, address: str = "192.0.2.1") -> Response:
    return send("/v1/builds", {"x-auth-token": token}, address)


def test_a_token_says_who_asks(send: Send, tokens: Tokens) -> None:
    token, made = tokens.create("heat", "member", project="web")
    for headers in ({"X-Auth-Token": token}, {"Authorization": f"Bearer {token}"}):
        answer = send("/v1/builds", headers)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said.pop("request_id").startswith("req-")
        assert said == {"project": "web", "user": f"token:{made.id}", "roles": ["member", "reader"]}


@pytest.mark.parametrize("role", ROLES)
def test_the_policy_is_asked(send: Send, tokens: Tokens, role: str) -> None:
    token, _ = tokens.create("x", role, project="web")
    least = {"builds:list": "reader", "builds:create": "member", "recipes:add": "manager", "layers:list": "admin"}
    for rule, needed in least.items():
        for project in ("web", "another"):
            answer = send(f"/v1/builds/{project}/{rule}", {"x-auth-token": token})
            may = role == "admin" or (project == "web" and ROLES.index(role) >= ROLES.index(needed))
            assert answer.status_code == (200 if may else 403)
            assert may or code(answer) == "imageflow.access.forbidden"


def test_headers_of_keystones_middleware_give_nothing(send: Send) -> None:
    forged = {"x-roles": "admin", "x-project-id": "web", "x-user-id": "me", "x-identity-status": "Confirmed"}
    answer = send("/v1/builds", forged)
    assert (answer.status_code, code(answer)) == (401, "imageflow.access.unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="imageflow"'


@pytest.mark.parametrize(
    "token",
    ["", "x", "ift_", "ift_000000000000_x", "gAAAAABk", "\xfc", "a" * 5000, generate()[0]],
    ids=[
        "none",
        "short",
        "prefix",
        "unsigned",
        "keystone's",
        "no ascii",
        "long",
        "of nobody",
    ],  # the same in each worker
)
def test_what_is_no_token(send: Send, token: str) -> None:
    for headers in ({"x-auth-token": token.encode("latin-1")}, {"authorization": b"Bearer " + token.encode("latin-1")}):
        answer = send("/v1/builds", headers)
        assert (answer.status_code, code(answer)) == (401, "imageflow.access.unauthorized")
        assert "token create" in answer.text and (len(token) < 5 or token not in answer.text)


def test_a_revoked_or_expired_token_is_refused_soon(send: Send, tokens: Tokens) -> None:
    token, made = tokens.create("x", "reader")
    short, _ = tokens.create("y", "reader", life=1)
    assert hello(send, token).status_code == hello(send, short).status_code == 200
    tokens.revoke(made.id)
    end = time.monotonic() + subject.KNOWN + 60
    while {hello(send, one).status_code for one in (token, short)} != {401}:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_its_use_is_noted(send: Send, tokens: Tokens) -> None:
    token, _ = tokens.create("x", "reader")
    hello(send, token)
    end = time.monotonic() + 60
    while tokens.select()[0].last_used is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_guesses_are_limited_for_their_client_alone(send: Send, tokens: Tokens) -> None:
    token, _ = tokens.create("x", "reader")
    later, _ = tokens.create("y", "reader")
    assert hello(send, token).status_code == 200
    found = [hello(send, generate()[0]).status_code for _ in range(MOST + 3)]
    assert found == [401] * MOST + [429] * 3
    refused = hello(send, later)
    assert (refused.status_code, code(refused)) == (429, "imageflow.access.wrong-tokens")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert hello(send, token).status_code == 200  # was good a moment ago
    assert hello(send, later, "192.0.2.2").status_code == 200
    assert send("/v1/builds").status_code == 401  # nothing was guessed


def test_many_guesses_at_once_are_counted_too(send: Send) -> None:
    """They are sent before the first of them is refused."""
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: hello(send, generate()[0]).status_code, range(3 * MOST)))
    assert found.count(401) == MOST and found.count(429) == 2 * MOST


def test_good_tokens_are_no_guesses(send: Send, tokens: Tokens) -> None:
    """Many jobs of one host, each with its own token."""
    for number in range(MOST + 5):
        assert hello(send, tokens.create(str(number), "reader")[0]).status_code == 200


def test_a_database_that_is_away_is_no_bad_token(send: Send, tokens: Tokens, database: Database) -> None:
    token, _ = tokens.create("x", "reader")
    database.close()
    assert database.path
    database.path.rename(database.path.with_name("away"))
    database.path.mkdir()
    for _ in range(MOST + 3):  # and none of these attempts counts as a guess
        answer = hello(send, token)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    database.path.rmdir()
    database.path.with_name("away").rename(database.path)
    assert hello(send, token).status_code == 200


# -- keystone: the tests with a real one are in tests/cloud --------------------------------------


def keystone(folder: Path, *lines: str) -> configuration.Config:
    file = folder / "keystone.conf"
    file.write_text("\n".join(["[api]", "auth = keystone", "[keystone_authtoken]", *lines]))
    return configuration.load([str(file)], str(folder))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "auth_type is missing"),
        (("auth_type = passwort",), "passwort"),
        (("auth_type = password",), "auth_url"),
        (("auth_type = password", "auth_url = http://127.0.0.1/", "token_cache_time = soon"), "token_cache_time"),
    ],
)
def test_a_keystone_that_cant_be_asked_stops_the_start(
    tmp_path: Path, tokens: Tokens, lines: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Access(keystone(tmp_path, *lines), tokens)
    assert caught.value.hint


def test_keystone_away_is_no_bad_token_and_ours_go_on(tmp_path: Path, tokens: Tokens) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and does not listen
        config = keystone(
            tmp_path,
            "auth_type = password",
            f"auth_url = http://127.0.0.1:{nobody.getsockname()[1]}/v3",
            "username = imageflow",
            "password = x",
            "http_request_max_retries = 0",
        )
        with asked(guarded(config, tokens)) as send:
            for number in range(MOST + 2):
                answer = hello(send, f"gAAAAAB-{number}")
                assert (answer.status_code, code(answer)) == (503, "imageflow.unavailable")
                assert int(answer.headers["retry-after"]) > 0
            assert hello(send, tokens.create("x", "reader")[0]).status_code == 200


def test_a_keystone_that_never_answers_takes_few_threads(tmp_path: Path, tokens: Tokens) -> None:
    """Requests are answered all the same, in time, and those with tokens of ours at once."""
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        config = keystone(
            tmp_path,
            "auth_type = password",
            f"auth_url = http://127.0.0.1:{silent.getsockname()[1]}/v3",
            "username = imageflow",
            "password = x",
            "http_request_max_retries = 0",
        )
        with asked(guarded(config, tokens)) as send, ThreadPoolExecutor(2 * THREADS) as pool:
            waiting = [pool.submit(hello, send, f"gAAAAAB-{number}") for number in range(2 * THREADS)]
            token, _ = tokens.create("x", "reader")
            assert hello(send, token).status_code == 200
            assert not all(one.done() for one in waiting)
            assert {one.result().status_code for one in waiting} == {503}
            asking = [one for one in {*threading.enumerate()} - before if one.name.startswith("keystone-asking")]
            assert 0 < len(asking) <= THREADS
