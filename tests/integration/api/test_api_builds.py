"""The image building API: builds and images as a program sees them, over HTTP, with a real database and real builds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imageflow.errors import NoSpace, SecretMissing, TooLarge
from imageflow.model import Artifact, Build, BuildState, Version, VersionState
from imageflow.persistence import answers, builds, versions
from imageflow.registry import trust
from tests.servers.http_listener import TOKEN, Answer, serving
from tests.servers.http_listener import Site as Listener
from tests.small.program import ROOT
from tests.small.site import Site

TINY = ROOT / "tests/recipes/tiny.yaml"
JSON = {"content-type": "application/json"}


@dataclass
class Api:
    """A client with a token, and what it talks to."""

    small: Site
    listener: Listener
    headers: dict[str, str]

    def get(self, path: str, **headers: str) -> Answer:
        return self.listener.send("GET", path, headers=self.headers | headers)

    def post(self, path: str, **headers: str) -> Answer:
        return self.listener.send("POST", path, headers=self.headers | headers)

    def paused(self) -> Build:
        """A build that paused at its step 'configure'."""
        self.small.trace.set("fail-configure")
        build = self.small.build()
        self.small.run_worker()
        self.small.trace.unset("fail-configure")
        return build


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Site(tmp_path, lease=8) as small:
        config = dataclasses.replace(
            small.config,
            api=dataclasses.replace(small.config.api, listen="127.0.0.1:0"),
            events=dataclasses.replace(small.config.events, token=TOKEN),
        )
        with serving(config) as listener:
            yield Api(small, listener, listener.token("admin"))


def refused(answer: Answer, status: int, code: str) -> str:
    """The message of a refusal, which both kinds of clients find."""
    assert (answer.status, answer.code) == (status, code), answer.body
    message = answer.json["message"]
    assert message == answer.json["errors"][0]["detail"]
    return str(message)


def a_version(small: Site, image: str, number: int, state: VersionState = VersionState.STORED) -> Version:
    digest = hashlib.sha256(f"{image}{number}".encode()).hexdigest()
    id = digest[:12]
    build = Build(id, image, "dib", BuildState.SUCCEEDED, "new", digest, "f", 1.5, digest=digest)
    made = Version(0, image, id, digest, digest, 2.0, small.config.store, "/p", (Artifact("w.raw", "raw", 3, digest),))

    def add(conn: Any) -> Version:
        builds.insert(conn, build, claim=False)
        found = versions.add(conn, made)
        if state is not VersionState.STORED:
            versions.mark(conn, found.id, state, "lost")
        return found

    return small.service.database.transact(add)


def test_clients_find_the_version_of_the_api(api: Api) -> None:
    [one] = api.get("/").json["versions"]
    assert one["id"] == "v1.0" and one["status"] == "CURRENT"
    assert api.get("/v1").json["version"] == api.get("/v1/").json["version"] == one
    where = {link["rel"]: link["href"] for link in one["links"]}
    assert where == {"self": f"{api.listener.url}/v1/", "describedby": f"{api.listener.url}/openapi.json"}


def test_builds_are_listed_page_by_page(api: Api) -> None:
    made = [api.small.build(name=f"image-{number}").id for number in range(5)][::-1]
    assert api.get("/v1/builds").json["builds_links"] == []
    seen, path = [], "/v1/builds?limit=2&state=queued&state=paused"
    while path:
        page = api.get(path).json
        assert len(page["builds"]) <= 2
        seen += [one["id"] for one in page["builds"]]
        path = next((link["href"] for link in page["builds_links"] if link["rel"] == "next"), "")
    assert seen == made
    [one] = api.get("/v1/builds?image=image-3").json["builds"]
    assert one["id"] == made[1] and one["state"] == "queued" and one["method"] == "small"
    assert api.get("/v1/builds?state=succeeded").json == {"builds": [], "builds_links": []}


def test_what_a_list_does_not_understand_is_refused(api: Api) -> None:
    assert "'stat'" in refused(api.get("/v1/builds?stat=paused"), 400, "request.malformed")
    assert "limit, marker" in refused(api.get("/v1/builds?nothing"), 400, "request.malformed")
    refused(api.get("/v1/builds?limit=0"), 400, "request.malformed")
    refused(api.get("/v1/builds?state=done"), 400, "request.malformed")
    assert "go on from" in refused(api.get("/v1/builds?marker=0123456789ab"), 400, "request.malformed")
    refused(api.get("/v1/images?state=stored"), 400, "request.malformed")


def test_a_build_is_shown_and_not_sent_twice(api: Api) -> None:
    build = api.small.build()
    answer = api.get(f"/v1/builds/{build.id}")
    assert answer.json["id"] == build.id and answer.json["created"].endswith("Z")
    assert answer.json["key"] == build.key and answer.json["error"] is None
    tag = answer.headers["etag"]
    again = api.get(f"/v1/builds/{build.id}", **{"if-none-match": f'"other", W/{tag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    api.small.run_worker()
    changed = api.get(f"/v1/builds/{build.id}", **{"if-none-match": tag})
    assert changed.status == 200 and changed.json["state"] == "succeeded" and changed.headers["etag"] != tag
    for link in changed.json["links"]:
        assert api.get(link["href"]).status == 200, link


def test_what_is_not_there_is_not_found(api: Api) -> None:
    assert "no build" in refused(api.get("/v1/builds/0123456789ab"), 404, "not-found")
    refused(api.get("/v1/builds/0123456789ab/steps"), 404, "not-found")
    refused(api.get("/v1/builds/0123456789ab/log"), 404, "not-found")
    refused(api.post("/v1/builds/0123456789ab/resume"), 404, "not-found")
    refused(api.get("/v1/builds/0123"), 400, "request.malformed")
    refused(api.get("/v1/images/none/versions"), 404, "not-found")
    wrong = api.listener.send("DELETE", "/v1/builds", headers=api.headers)
    refused(wrong, 405, "request.method")
    assert wrong.headers["allow"] == "GET, POST"
    assert {endpoint for endpoint, _ in api.listener.refused()} <= {"api"}


def test_steps_and_log_of_a_build(api: Api) -> None:
    build = api.paused()
    steps = api.get(f"/v1/builds/{build.id}/steps").json["steps"]
    assert [one["state"] for one in steps if one["name"] == "configure"] == ["failed"]
    shown = api.get(f"/v1/builds/{build.id}").json
    assert shown["state"] == "paused" and shown["step"] == "configure" and shown["error"]
    log = api.get(f"/v1/builds/{build.id}/log")
    assert log.status == 200 and log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.body == api.small.service.log_path(build.id).read_bytes()
    size = len(log.body)
    for asked, part in (
        ("bytes=5-9", log.body[5:10]),
        ("bytes=-7", log.body[-7:]),
        (f"bytes={size - 1}-", log.body[-1:]),
    ):
        answer = api.get(f"/v1/builds/{build.id}/log", range=asked)
        assert (answer.status, answer.body) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{size}")
    for nonsense in ("bytes=a-b", "lines=1-2", "bytes=-", "bytes=1-2,4-5"):
        assert api.get(f"/v1/builds/{build.id}/log", range=nonsense).body == log.body
    beyond = api.get(f"/v1/builds/{build.id}/log", range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    with api.small.service.log_path(build.id).open("ab") as file:
        file.write(b"more\n")
    assert api.get(f"/v1/builds/{build.id}/log", range=f"bytes={size}-").body == b"more\n"


def test_a_log_on_another_machine_says_where_it_is(api: Api) -> None:
    build = api.paused()
    api.small.service.database.transact(lambda conn: builds.change(conn, build.id, host="elsewhere"))
    assert "elsewhere" in refused(api.get(f"/v1/builds/{build.id}/log"), 409, "build.log-elsewhere")
    fresh = api.small.build(name="fresh")
    assert api.get(f"/v1/builds/{fresh.id}/log").body == b""


def test_a_paused_build_is_resumed_and_who_asks_twice_is_answered_twice(api: Api) -> None:
    build = api.paused()
    tag = api.get(f"/v1/builds/{build.id}").headers["etag"]
    stale = api.post(f"/v1/builds/{build.id}/resume", **{"if-match": '"0"'})
    assert "read it again" in refused(stale, 412, "request.precondition")
    for condition in (tag, "*"):
        answer = api.post(f"/v1/builds/{build.id}/resume", **{"if-match": condition})
        assert (answer.status, answer.json["state"]) == (202, "queued")
    api.small.run_worker()
    assert api.get(f"/v1/builds/{build.id}").json["state"] == "succeeded"
    assert "not paused" in refused(api.post(f"/v1/builds/{build.id}/resume"), 409, "conflict")
    assert "ended" in refused(api.post(f"/v1/builds/{build.id}/cancel"), 409, "conflict")


@pytest.mark.parametrize(("action", "end"), [("abort", "aborted"), ("cancel", "cancelled")])
def test_a_build_is_given_up(api: Api, action: str, end: str) -> None:
    waiting, paused = api.small.build(name="waiting"), None
    for _ in range(2):
        answer = api.post(f"/v1/builds/{waiting.id}/{action}")
        assert (answer.status, answer.json["state"]) == (202, end)
    paused = api.paused()
    assert api.post(f"/v1/builds/{paused.id}/{action}").json["state"] == "reverting"
    assert api.post(f"/v1/builds/{paused.id}/{action}").status == 202
    api.small.run_worker()
    assert api.get(f"/v1/builds/{paused.id}").json["state"] == end


def test_images_and_their_versions(api: Api) -> None:
    old, new = a_version(api.small, "web", 1), a_version(api.small, "web", 2)
    lost = a_version(api.small, "db", 1, VersionState.MISSING)
    assert [one["digest"] for one in api.get("/v1/images").json["images"]] == [new.digest]
    found = api.get("/v1/images/web/versions").json["versions"]
    assert [one["digest"] for one in found] == [new.digest, old.digest]
    assert found[0]["files"] == [
        {"name": "w.raw", "format": "raw", "size": 3, "digest": new.digest, "virtual_size": None}
    ]
    newest = api.get("/v1/images/web/versions/newest")
    assert newest.json == found[0]
    same = api.get(f"/v1/images/web/versions/{new.digest}", **{"if-none-match": newest.headers["etag"]})
    assert same.status == 304
    missing = api.get(f"/v1/images/db/versions/{lost.digest}").json
    assert (missing["state"], missing["why"]) == ("missing", "lost")
    refused(api.get(f"/v1/images/db/versions/{new.digest}"), 404, "not-found")
    refused(api.get(f"/v1/images/{new.digest}/versions/newest"), 404, "not-found")
    for link in newest.json["links"]:
        assert api.get(link["href"]).status == 200, link


def ask(api: Api, key: str | None = None, **wanted: Any) -> Answer:
    headers = api.headers | {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
    return api.listener.send("POST", "/v1/builds", json.dumps(wanted).encode(), headers)


def test_a_registered_image_is_asked_for_once(api: Api) -> None:
    [image] = api.small.service.recipes.add(TINY).images
    first = ask(api, image=image)
    assert (first.status, first.json["verdict"]) == (202, "created")
    assert first.headers["location"] == f"/v1/builds/{first.json['build']['id']}"
    assert api.get(first.headers["location"]).json["image"] == image
    assert "asked for it over the API" in first.json["build"]["reason"]
    second = ask(api, image=image)
    assert (second.json["verdict"], second.json["build"]["id"]) == ("joined", first.json["build"]["id"])
    forced = ask(api, image=image, force=True)
    assert forced.json["verdict"] == "created" and forced.json["build"]["id"] != first.json["build"]["id"]


def test_an_idempotency_key_gets_the_same_answer(api: Api) -> None:
    [image] = api.small.service.recipes.add(TINY).images
    first = ask(api, "k1", image=image, force=True)
    again = ask(api, "k1", force=True, image=image)
    assert (first.headers["idempotent-replayed"], again.headers["idempotent-replayed"]) == ("false", "true")
    assert (again.status, again.body, again.headers["location"]) == (202, first.body, first.headers["location"])
    refused(ask(api, "k1", image=image), 422, "request.idempotency-key")
    assert ask(api, "k2", image=image, force=True).json["build"]["id"] != first.json["build"]["id"]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ask(api, "k3", image=image, force=True), range(8)))
    assert {one.status for one in found} == {202} and len({one.body for one in found}) == 1
    assert len(api.get("/v1/builds").json["builds"]) == 3


def test_an_answer_is_kept_with_the_build_or_not_at_all(api: Api) -> None:
    """Killed in the transaction: neither is there, and the same key again makes one build."""
    [image] = api.small.service.recipes.add(TINY).images
    kept = answers.keep

    def dies(*arguments: Any) -> None:
        kept(*arguments)
        raise RuntimeError("killed here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "keep", dies)
        assert ask(api, "k", image=image).status == 500
    assert api.get("/v1/builds").json["builds"] == []
    first, again = ask(api, "k", image=image), ask(api, "k", image=image)
    assert first.headers["idempotent-replayed"] == "false" and again.body == first.body
    assert len(api.get("/v1/builds").json["builds"]) == 1


def test_what_can_not_be_asked_for(api: Api, tmp_path: Path) -> None:
    assert "no registered recipe" in refused(ask(api, image="none"), 404, "not-found")
    refused(ask(api, image="none", force=1), 400, "request.malformed")
    refused(ask(api, image="none", forced=True), 400, "request.malformed")
    refused(ask(api), 400, "request.malformed")
    folder = tmp_path / "recipe"
    shutil.copytree(TINY.parent, folder)
    [image] = api.small.service.recipes.add(folder / TINY.name).images
    shutil.rmtree(folder)
    answer = ask(api, image=image)
    assert answer.status == 409 and image in answer.json["message"]


READS = ("/v1/builds", "/v1/builds/{id}", "/v1/builds/{id}/steps", "/v1/builds/{id}/log", "/v1/images")
WRITES = ("/v1/builds/{id}/resume", "/v1/builds/{id}/abort", "/v1/builds/{id}/cancel", "/v1/builds")


@pytest.mark.parametrize(("role", "writes"), [("reader", 403), ("member", 0), ("manager", 0), ("admin", 0)])
def test_each_role_may_do_what_the_policy_says(api: Api, role: str, writes: int) -> None:
    build = api.small.build()
    headers = api.listener.token(role)
    for path in READS:
        assert api.listener.send("GET", path.format(id=build.id), headers=headers).status == 200, path
    for path in WRITES:
        answer = api.listener.send("POST", path.format(id=build.id), b'{"image": "none"}', headers | JSON)
        assert answer.status == writes or (not writes and answer.status in (202, 404, 409)), (path, answer.body)


@pytest.mark.parametrize("role", ["reader", "member", "manager"])
def test_another_project_sees_nothing(api: Api, role: str) -> None:
    """Not even which ids there are: what exists is answered like what does not."""
    build = api.small.build()
    headers = api.listener.token(role, "other")
    for method, paths in (("GET", READS), ("POST", WRITES)):
        for path in paths:
            found = [
                api.listener.send(method, path.format(id=id), b'{"image": "none"}', headers | JSON)
                for id in (build.id, "0123456789ab")
            ]
            assert [(one.status, one.code) for one in found] == [(403, "access.forbidden")] * 2, path
    assert api.small.service.build(build.id).state is BuildState.QUEUED


def test_without_a_token_nothing_is_said(api: Api) -> None:
    build = api.small.build()
    for method, paths in (("GET", READS), ("POST", WRITES)):
        for path in paths:
            for headers in ({}, {"x-auth-token": "ift_0_nonsense"}):
                answer = api.listener.send(method, path.format(id=build.id) + "?nonsense=1", b"", headers | JSON)
                assert (answer.status, answer.code) == (401, "access.unauthorized"), path
                assert "www-authenticate" in answer.headers
    assert api.listener.send("GET", "/v1").status == 200


def test_what_can_not_be_built_here_is_told_and_is_no_outage(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    [image] = api.small.service.recipes.add(TINY).images
    for error in (SecretMissing("the secret 'x' is not set", hint="set it"), TooLarge("it is larger than 1 GiB")):
        with monkeypatch.context() as patch:
            patch.setattr(trust, "check", raising(error))
            assert error.message in refused(ask(api, image=image), 409, "conflict")
    with monkeypatch.context() as patch:
        patch.setattr(trust, "check", raising(NoSpace()))
        assert ask(api, image=image).status == 503


def raising(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_requests_that_wait_for_others_are_counted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is pinning, for as long as it takes: others are told to come again, and reading goes on."""
    [image] = api.small.service.recipes.add(TINY).images
    go_on, inside = threading.Event(), threading.Semaphore(0)

    def slow(*_: Any) -> None:
        inside.release()
        assert go_on.wait(60)

    monkeypatch.setattr(trust, "check", slow)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, api, image=image) for _ in range(10)]
        try:
            assert all(inside.acquire(timeout=30) for _ in range(8))
            assert api.get("/v1/builds").status == 200
            statuses = [one.result(60).status for one in asked]
            assert not inside.acquire(blocking=False)
        finally:
            go_on.set()
    assert statuses == [503] * 10
    assert ask(api, image=image).status == 202
