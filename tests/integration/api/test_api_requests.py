"""Requests and the catalog over HTTP: as Heat, Terraform and programs of other projects use them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.http_listener import TOKEN, Answer, serving
from tests.servers.http_listener import Site as Listener
from tests.small.flow import Trace
from tests.small.yard import Yard, open_yard

ENTRY = """
description: a tree of files
takes: [packages, custom_files]
recipes:
  files: {motd: [{files: [{path: /etc/motd, content: of the operator}]}]}
image:
  method: dib
  dib: {elements: [tiny], skip-base: true}
"""
WANTED = {"os": "tiny", "packages": ["nginx", "curl"]}
JSON = {"content-type": "application/json"}


@dataclass
class Desk:
    """A client of the API for each role and project."""

    yard: Yard
    listener: Listener
    trace: Trace
    tokens: dict[tuple[str, str], dict[str, str]]

    def token(self, role: str = "member", project: str = "default") -> dict[str, str]:
        if (role, project) not in self.tokens:
            self.tokens[role, project] = self.listener.token(role, project)
        return self.tokens[role, project]

    def send(
        self, method: str, path: str, body: Any = None, *, role: str = "member", project: str = "default"
    ) -> Answer:
        said = b"" if body is None else json.dumps(body).encode()
        headers = self.token(role, project) | (JSON if body is not None else {})
        return self.listener.send(method, path, said, headers)

    def put(self, name: str, wanted: Any = WANTED, query: str = "", *, project: str = "default", **more: Any) -> Answer:
        return self.send("PUT", f"/v1/requests/{name}{query}", {"wanted": wanted, **more}, project=project)

    def builds(self) -> int:
        return len(self.yard.service.builds(limit=1000))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    (catalog / "tiny.yaml").write_text(ENTRY)
    options = {
        "catalog__path": str(catalog),
        "catalog__projects": "acme",
        "catalog__dib": "true",
        "api__listen": "127.0.0.1:0",
        "api__rate": "100000/minute",
        "events__token": TOKEN,
    }
    with open_yard(tmp_path, "", monkeypatch, **options) as yard, serving(yard.service.config) as listener:
        yield Desk(yard, listener, Trace(catalog / "trace"), {})


def test_from_a_want_to_an_image(desk: Desk) -> None:
    asked = desk.put("stack-1", user={"kind": "heat", "stack": "1234"})
    assert asked.status == 202 and asked.json["state"] == "building" and asked.json["digest"] is None
    assert asked.json["wanted"] == {"os": "tiny", "packages": ["curl", "nginx"]}
    assert desk.put("stack-1", user={"kind": "heat", "stack": "1234"}).json["build_id"] == asked.json["build_id"]
    desk.yard.work()
    ready = desk.send("GET", "/v1/requests/stack-1")
    assert (ready.status, ready.json["state"]) == (200, "ready")
    assert len(ready.json["digest"]) == 64 and ready.json["user"] == {"kind": "heat", "stack": "1234"}
    for link in ready.json["links"]:
        assert desk.send("GET", link["href"]).status == 200, link
    again = desk.put("stack-2", {"packages": ["curl", "nginx", "curl"], "os": "tiny"})
    assert (again.status, again.json["state"], again.json["digest"]) == (200, "ready", ready.json["digest"])
    assert desk.builds() == 1


def test_projects_share_what_is_built_and_not_their_requests(desk: Desk) -> None:
    desk.put("web")
    desk.yard.work()
    ours = desk.send("GET", "/v1/requests/web").json
    theirs = desk.put("web", project="acme")
    assert theirs.status == 200 and theirs.json["digest"] == ours["digest"] and theirs.json["project"] == "acme"
    desk.put("only-ours", {"os": "tiny"})
    assert desk.send("GET", "/v1/requests/only-ours", project="acme").status == 404
    assert desk.send("DELETE", "/v1/requests/only-ours", project="acme").status == 404
    listed = desk.send("GET", "/v1/requests", project="acme").json["requests"]
    assert [one["name"] for one in listed] == ["web"]
    other = desk.put("web", project="elsewhere")
    assert (other.status, other.code) == (403, "access.project")
    assert "[catalog] projects" in other.json["message"]
    assert desk.send("GET", "/v1/catalog", project="elsewhere").status == 403


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("GET", "/v1/requests", "reader"),
        ("GET", "/v1/requests/web", "reader"),
        ("GET", "/v1/catalog", "reader"),
        ("PUT", "/v1/requests/web", "member"),
        ("DELETE", "/v1/requests/web", "member"),
    ],
)
def test_each_role_may_what_it_may(desk: Desk, method: str, path: str, least: str) -> None:
    desk.put("web")
    body = {"wanted": WANTED} if method == "PUT" else None
    roles = ["reader", "member", "manager", "admin"]
    for role in roles[::-1]:
        answer = desk.send(method, path, body, role=role)
        allowed = roles.index(role) >= roles.index(least)
        assert (answer.status != 403) is allowed, (role, answer.body)
        assert answer.status in (200, 202, 204, 403, 404), answer.body
    assert desk.listener.send(method, path, b"", {}).status == 401


def test_never_is_for_production(desk: Desk) -> None:
    missing = desk.put("prod", build="never")
    assert (missing.status, missing.json["state"], missing.json["image_id"]) == (200, "missing", None)
    assert "if-missing" in missing.json["hint"] and desk.builds() == 0
    desk.put("test")
    desk.yard.work()
    assert desk.put("prod", build="never").json["digest"] == desk.send("GET", "/v1/requests/test").json["digest"]
    assert desk.builds() == 1


def test_a_plan_changes_nothing(desk: Desk) -> None:
    plan = desk.put("web", query="?dry_run=true").json
    assert plan["verdict"] == "build" and plan["steps"] and plan["image"].startswith("tiny-")
    assert desk.builds() == 0 and desk.send("GET", "/v1/requests/web").status == 404
    assert desk.put("web", query="?dry_run=true", build="never").json["verdict"] == "missing"
    desk.put("web")
    assert desk.put("other", query="?dry_run=true").json["verdict"] == "join"
    desk.yard.work()
    assert desk.put("other", query="?dry_run=true").json["verdict"] == "reuse"
    assert desk.put("other", query="?dry_run=true", build="never").json["verdict"] == "reuse"


def test_who_waits_is_answered_when_it_is_built(desk: Desk) -> None:
    answers: list[Answer] = []
    desk.put("web")
    waiting = threading.Thread(target=lambda: answers.append(desk.send("GET", "/v1/requests/web?wait=60")))
    waiting.start()
    desk.yard.work()
    waiting.join(30)
    assert answers[0].json["state"] == "ready"
    begun = time.monotonic()
    late = desk.put("other", {"os": "tiny"}, "?wait=0.5")
    assert late.status == 202 and time.monotonic() - begun >= 0.5
    assert desk.send("GET", "/v1/requests/web?wait=61").status == 400


def test_what_is_asked_twice_is_not_sent_twice(desk: Desk) -> None:
    asked = desk.put("web")
    tag = asked.headers["etag"]
    headers = desk.token() | {"if-none-match": tag}
    assert desk.listener.send("GET", "/v1/requests/web", b"", headers).status == 304
    desk.yard.work()
    assert desk.listener.send("GET", "/v1/requests/web", b"", headers).status == 200


def test_a_paused_build_says_what_to_do(desk: Desk) -> None:
    asked = desk.put("web").json
    desk.trace.set(f"fail-{asked['image']}")
    desk.yard.work()
    paused = desk.send("GET", "/v1/requests/web?wait=30").json
    assert paused["state"] == "paused" and "told to fail" in paused["reason"]
    assert f"imageflow build resume {asked['build_id']}" in paused["hint"]
    desk.trace.unset(f"fail-{asked['image']}")
    assert desk.send("POST", f"/v1/builds/{asked['build_id']}/resume").status == 202
    assert desk.send("GET", "/v1/requests/web").json["state"] == "building"
    desk.yard.work()
    assert desk.send("GET", "/v1/requests/web").json["state"] == "ready"


def test_taking_back_keeps_the_image(desk: Desk) -> None:
    desk.put("web")
    desk.yard.work()
    digest = desk.send("GET", "/v1/requests/web").json["digest"]
    assert desk.send("DELETE", "/v1/requests/web").status == 204
    assert desk.send("DELETE", "/v1/requests/web").status == 404
    assert desk.put("again").json["digest"] == digest and desk.builds() == 1


def test_pages(desk: Desk) -> None:
    for number in range(5):
        desk.put(f"stack-{number}")
    path, seen = "/v1/requests?limit=2", []
    while path:
        page = desk.send("GET", path).json
        seen += [one["name"] for one in page["requests"]]
        path = next((link["href"] for link in page["requests_links"]), "")
    assert seen == [f"stack-{number}" for number in range(5)]


def test_the_catalog_tells_what_may_be_asked_for(desk: Desk) -> None:
    [entry] = desk.send("GET", "/v1/catalog", role="reader").json["catalog"]
    assert entry == {
        "os": "tiny",
        "description": "a tree of files",
        "method": "dib",
        "takes": ["packages", "custom_files"],
        "recipes": {"files": ["motd"]},
    }
    desk.put("web", {"os": "tiny", "config_system": "files", "recipe": "motd"})
    [build] = desk.yard.service.builds()
    recipe = desk.yard.service.build(build.id).recipe
    assert recipe["configure"][0]["files"][0]["content"] == "of the operator"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"wanted": {"os": "tini"}}, "did you mean 'tiny'"),
        ({"wanted": {"os": "tiny", "pip_packages": ["flask"]}}, "takes no pip_packages"),
        ({"wanted": {"os": "tiny", "packages": ["a; reboot"]}}, "wanted.packages.0: 'a; reboot' is not a package name"),
        ({"wanted": {"os": "tiny", "shell": "reboot"}}, "wanted.shell"),
        (
            {"wanted": {"os": "tiny", "custom_files": [{"path": "/a", "source": "/etc/shadow"}]}},
            "custom_files.0.source",
        ),
        ({"wanted": {"os": "../../etc/passwd"}}, "wanted.os"),
        ({"wanted": {"os": "tiny", "config_system": "files", "recipe": "../motd"}}, "wanted.recipe"),
        ({"wanted": {"os": "tiny", "config_system": "files", "recipe": "shadow"}}, "files: motd"),
        ({"wanted": WANTED, "image": "web"}, "needs one of 'wanted' and 'image'"),
        ({}, "needs one of 'wanted' and 'image'"),
        ({"image": "../web"}, "image"),
        ({"wanted": WANTED, "build": "always"}, "build"),
        ({"wanted": WANTED, "user": {str(number): "x" for number in range(17)}}, "user"),
        ({"wanted": WANTED, "user": {"kind": {"deep": 1}}}, "user.kind"),
        ({"wanted": WANTED, "force": True}, "force"),
        ([], "body"),
    ],
)
def test_what_is_no_request_is_refused(desk: Desk, body: Any, said: str) -> None:
    answer = desk.send("PUT", "/v1/requests/web", body)
    assert answer.status == 400 and said in answer.json["message"], answer.body
    assert desk.builds() == 0 and desk.send("GET", "/v1/requests").json["requests"] == []


def test_what_is_not_there(desk: Desk) -> None:
    assert desk.send("PUT", "/v1/requests/web", {"image": "unknown"}).status == 404
    assert desk.send("PUT", "/v1/requests/..%2Fweb", {"wanted": WANTED}).status in (400, 404)
    assert desk.send("GET", "/v1/requests/web").status == 404
    (desk.yard.service.config.catalog.path / "tiny.yaml").write_text("image: [")
    answer = desk.put("web")
    assert answer.status == 503 and "tiny.yaml" not in answer.json["message"], "it is the operator's, and in the log"
    (desk.yard.service.config.catalog.path / "other.yaml").write_text(ENTRY)
    listed = desk.send("GET", "/v1/catalog").json["catalog"]
    assert [entry["os"] for entry in listed] == ["other"], "a wrong entry hides no other one"


def test_equal_wants_of_16_clients_are_one_build(desk: Desk) -> None:
    packages = [f"package-{number}" for number in range(12)]

    def ask(number: int) -> tuple[int, str]:
        mixed = random.Random(number).sample(packages, len(packages))
        project = ("default", "acme")[number % 2]
        for _ in range(10):
            answer = desk.put(f"stack-{number}", {"os": "tiny", "packages": mixed}, project=project)
            if answer.status != 503:  # a slow machine: clients ask again
                break
            assert answer.headers["retry-after"]
        return answer.status, answer.json.get("build_id", "")

    with ThreadPoolExecutor(16) as clients:
        found = set(clients.map(ask, range(64)))
    assert {status for status, _ in found} == {202} and len({build for _, build in found}) == 1
    assert desk.builds() == 1
