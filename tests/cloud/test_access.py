"""Who may, with a real keystone: its tokens are taken, believed for a while, and refused when they are not good any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from httpx import Response
from keystoneauth1.identity.v3 import ApplicationCredential

from imageflow import config as configuration
from imageflow.access.tokens import Tokens
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.cloud import identity
from tests.cloud.cloud import Cloud
from tests.cloud.settings import REGION
from tests.servers.guarded_app import Send, asked, guarded

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=3)]
CACHED = 4  # seconds
SERVICE = "image-builder"


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    with Database(f"sqlite:///{tmp_path}/a.db") as database:
        schema.ready(database)
        yield Tokens(database)


def application(cloud: Cloud, folder: Path, cached: int) -> configuration.Config:
    file = folder / "imageflow.conf"
    file.write_text(
        f"""[api]
auth = keystone
[keystone_authtoken]
auth_type = password
auth_url = {cloud.auth_url}
www_authenticate_uri = {cloud.auth_url}
username = {identity.ADMIN}
password = {cloud.password}
project_name = {identity.ADMIN}
user_domain_id = default
project_domain_id = default
token_cache_time = {cached}
http_request_max_retries = 1
service_type = {SERVICE}
"""
    )
    return configuration.load([str(file)], str(folder))


@pytest.fixture
def send(cloud: Cloud, tokens: Tokens, tmp_path: Path) -> Iterator[Send]:
    with asked(guarded(application(cloud, tmp_path, CACHED), tokens)) as send:
        yield send


@pytest.fixture
def trusting(cloud: Cloud, tokens: Tokens, tmp_path: Path) -> Iterator[Send]:
    """One that believes a token for long."""
    with asked(guarded(application(cloud, tmp_path, 3600), tokens)) as send:
        yield send


def hello(send: Send, token: str | None, path: str = "/v1/builds") -> Response:
    assert token
    return send(path, {"x-auth-token": token})


def wait(condition: Callable[[], bool], patience: float = 60) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_a_member_may_what_members_may(cloud: Cloud, send: Send) -> None:
    session = cloud.session()
    token = session.get_token()
    said = hello(send, token).json()
    assert said["project"] == session.get_project_id() and said["user"] == session.get_user_id()
    assert said["roles"] == ["member", "reader"]
    for rule, status in (("builds:create", 200), ("recipes:add", 403), ("outbox:list", 403)):
        assert hello(send, token, f"/v1/builds/{said['project']}/{rule}").status_code == status
    assert hello(send, token, "/v1/builds/another/builds:list").status_code == 403
    for rule in ("recipes:add", "outbox:list"):
        assert hello(send, cloud.session("admin").get_token(), f"/v1/builds/another/{rule}").status_code == 200


def test_ours_are_taken_beside_keystones(send: Send, tokens: Tokens) -> None:
    token, made = tokens.create("x", "reader", project="web")
    assert hello(send, token).json()["user"] == f"token:{made.id}"


def test_a_wrong_token_is_told_where_keystone_is(cloud: Cloud, send: Send) -> None:
    answer = hello(send, "gAAAAABk-not-one-of-its-tokens")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == f'Keystone uri="{cloud.auth_url}"'


def test_a_token_for_no_project_is_not_enough(cloud: Cloud, send: Send) -> None:
    auth = identity.v3.Password(
        auth_url=cloud.auth_url,
        username=identity.ADMIN,
        password=cloud.password,
        user_domain_id="default",
        unscoped=True,
    )
    answer = hello(send, identity.session(auth).get_token())
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "imageflow.access.unscoped")


def test_a_revoked_token_is_refused_once_it_is_looked_at_again(cloud: Cloud, send: Send) -> None:
    session, outsider = cloud.session(), cloud.session("outsider")
    seen, unseen = session.get_token(), outsider.get_token()
    assert hello(send, seen).status_code == 200
    for one, token in ((session, seen), (outsider, unseen)):
        one.delete(f"{cloud.auth_url}/auth/tokens", headers={"X-Subject-Token": token})
    assert hello(send, unseen).status_code == 401
    wait(lambda: hello(send, seen).status_code == 401)


def test_an_expired_token_is_refused_though_it_is_known(cloud: Cloud, trusting: Send) -> None:
    with cloud.token_life(8):
        token = cloud.session().get_token()
        assert hello(trusting, token).status_code == 200
        wait(lambda: hello(trusting, token).status_code == 401)


def test_keystone_away_is_no_bad_token(cloud: Cloud, trusting: Send) -> None:
    known, unknown = cloud.session().get_token(), cloud.session("outsider").get_token()
    assert hello(trusting, known).status_code == 200
    with cloud.without("keystone"):
        answer = hello(trusting, unknown)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert hello(trusting, known).status_code == 200
    assert hello(trusting, unknown).status_code == 200


@pytest.fixture
def in_the_catalogue(cloud: Cloud) -> Iterator[None]:
    """Access rules name a service by its type, which the catalogue of the token must have."""
    keystone, session = identity.Keystone(cloud.settings), cloud.session("admin")
    made = keystone.create("service", "services", type=SERVICE, name="imageflow")["id"]
    try:
        keystone.create(
            "endpoint", "endpoints", service_id=made, interface="public", url="http://127.0.0.1:1", region_id=REGION
        )
        yield
    finally:
        session.delete(f"{cloud.auth_url}/services/{made}")


@pytest.mark.usefixtures("in_the_catalogue")
def test_access_rules_of_application_credentials_hold(cloud: Cloud, send: Send) -> None:
    session = cloud.session("outsider")
    rules = [{"service": SERVICE, "method": "GET", "path": "/v1/builds"}]
    credentials = f"{cloud.auth_url}/users/{session.get_user_id()}/application_credentials"
    body = {"application_credential": {"name": "only-lists", "access_rules": rules}}
    made = session.post(credentials, json=body).json()["application_credential"]
    try:
        auth = ApplicationCredential(
            auth_url=cloud.auth_url, application_credential_id=made["id"], application_credential_secret=made["secret"]
        )
        token = identity.session(auth).get_token()
        assert hello(send, token).status_code == 200
        project = session.get_project_id()
        assert hello(send, token, f"/v1/builds/{project}/builds:list").status_code == 401
    finally:
        session.delete(f"{credentials}/{made['id']}")
