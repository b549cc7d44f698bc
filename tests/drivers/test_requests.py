"""Requests on each database: who asks for the same gets the same, and what is held is not removed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.builds.retention import Retention
from imageflow.errors import BadInput, Conflict, NotFound
from imageflow.model import BuildState, VersionState
from imageflow.persistence import requests, retention, versions
from imageflow.persistence.elapsed import Ages
from imageflow.persistence.tables import unheld
from imageflow.wants.requests import Asked, BuildPolicy, ImageRequest, Requests, RequestState
from imageflow.wants.want import Want
from tests.small.flow import Trace
from tests.small.yard import Yard, open_yard

ENTRY = """
takes: [packages, custom_files]
image:
  method: dib
  dib: {elements: [tiny], skip-base: true}
  publish: {keep: 1}
"""
WEB = """
images:
  - name: web
    method: dib
    dib: {elements: [tiny], skip-base: true}
    configure: [{files: [{path: /etc/motd, source: motd}]}]
    publish: {keep: 1}
"""


class Office:
    """Where requests are made; `catalog` is the folder of its one entry."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.service = yard.service
        self.catalog = yard.service.config.catalog.path
        self.trace = Trace(self.catalog / "trace")
        (self.catalog / "tiny.yaml").write_text(ENTRY)

    @property
    def requests(self) -> Requests:
        return self.service.requests

    def ask(
        self, name: str, motd: str = "hello", policy: BuildPolicy = BuildPolicy.IF_MISSING, project: str = "default"
    ) -> Asked:
        want = Want(os="tiny", custom_files=[{"path": "/etc/motd", "content": motd}])
        return self.requests.put(ImageRequest(project, name, "", policy), want)

    def ask_for(self, name: str, image: str, policy: BuildPolicy = BuildPolicy.IF_MISSING) -> Asked:
        return self.requests.put(ImageRequest("default", name, image, policy))

    def get(self, name: str) -> Asked:
        return self.requests.get("default", name)

    def builds(self) -> int:
        return len(self.service.builds(limit=1000))


@pytest.fixture
def office(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    (tmp_path / "catalog").mkdir()
    options = {
        "catalog__path": str(tmp_path / "catalog"),
        "catalog__max_requests": "1000",
        "catalog__fresh": "0",
        "catalog__dib": "true",
    }
    with open_yard(tmp_path, database_url, monkeypatch, **options) as yard:
        yield Office(yard)


def test_who_asks_for_the_same_gets_the_same(office: Office) -> None:
    asked = office.ask("mine")
    assert asked.state is RequestState.BUILDING and asked.build is not None
    assert office.ask("other").request.build_id == asked.build.id
    office.yard.work()
    ready = office.get("mine")
    assert ready.state is RequestState.READY and ready.version is not None
    later = office.ask("third", project="acme")
    assert later.version == ready.version and later.state is RequestState.READY
    assert office.builds() == 1
    assert office.ask("mine", "another text").request.image != ready.request.image
    assert office.get("other").version == ready.version
    assert office.builds() == 2


def test_asking_again_is_the_same_request(office: Office) -> None:
    first = office.ask("mine")
    office.yard.work()
    again = office.ask("mine")
    assert replace(again.request, changed=0.0) == replace(first.request, changed=0.0)
    assert [one.request.name for one in office.requests.select("default")] == ["mine"]
    assert office.requests.select("acme") == []


def test_a_request_keeps_its_version_when_the_inputs_move_on(office: Office) -> None:
    office.yard.register(WEB)
    held = office.ask_for("mine", "web").request.build_id
    (office.yard.site.folder / "motd").write_text("of a later hour")
    assert office.ask_for("mine", "web").request.build_id == held
    office.yard.work()
    (office.yard.site.folder / "motd").write_text("of a later day")
    assert office.ask_for("mine", "web").request.build_id == held
    assert office.builds() == 1
    assert office.ask_for("new", "web").request.build_id != held


def test_a_version_that_goes_just_then_is_asked_for_again(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.ask("first")
    office.yard.work()
    version = office.get("first").version
    assert version is not None
    ask, tries = office.service.submitter.ask, []

    def deleted_just_then(wanted: Any, *, cause: str, answer: Any) -> Any:
        def late(conn: Any, submission: Any) -> None:
            tries.append(submission.build.id)
            if len(tries) < 3:
                versions.mark(conn, version.id, VersionState.DELETED)
            answer(conn, submission)

        return ask(wanted, cause=cause, answer=late)

    monkeypatch.setattr(office.service.submitter, "ask", deleted_just_then)
    assert office.ask("second").version == version and len(tries) == 3


def test_a_failed_build_is_asked_for_again_and_a_paused_one_is_not(office: Office) -> None:
    image = office.ask("mine").request.image
    office.trace.set(f"fail-{image}")
    office.yard.work()
    paused = office.get("mine")
    assert paused.state is RequestState.PAUSED and "told to fail" in paused.reason
    assert paused.build is not None and f"imageflow build resume {paused.build.id}" in paused.hint
    assert office.ask("mine").request.build_id == paused.request.build_id
    office.service.abort(paused.build.id)
    office.yard.work()
    assert office.get("mine").state is RequestState.FAILED
    office.trace.unset(f"fail-{image}")
    again = office.ask("mine")
    assert again.state is RequestState.BUILDING and again.request.build_id != paused.request.build_id
    office.yard.work()
    assert office.get("mine").state is RequestState.READY


def test_never_takes_the_newest_version_and_builds_nothing(office: Office) -> None:
    missing = office.ask("production", policy=BuildPolicy.NEVER)
    assert missing.state is RequestState.MISSING and "if-missing" in missing.hint
    assert office.builds() == 0
    office.ask("test")
    office.yard.work()
    tested = office.get("test").version
    assert tested is not None
    assert office.get("production").state is RequestState.MISSING, "nobody has asked again"
    resolved = office.ask("production", policy=BuildPolicy.NEVER)
    assert resolved.state is RequestState.READY and resolved.version == tested
    assert office.builds() == 1
    with pytest.raises(NotFound):
        office.ask_for("production", "unknown", BuildPolicy.NEVER)


def test_never_takes_no_version_that_is_lost(office: Office) -> None:
    office.ask("test")
    office.yard.work()
    version = office.get("test").version
    assert version is not None
    with office.service.database.begin() as conn:
        versions.mark(conn, version.id, VersionState.CORRUPT, "its bytes are others")
    assert office.ask("production", policy=BuildPolicy.NEVER).state is RequestState.MISSING
    lost = office.get("test")
    assert lost.state is RequestState.MISSING and lost.reason == "its bytes are others"
    assert office.ask("test").state is RequestState.BUILDING, "asking again builds it again"


def test_what_is_held_is_not_removed(office: Office) -> None:
    office.yard.register(WEB)
    office.ask_for("mine", "web")
    office.yard.work()
    held = office.get("mine").version
    assert held is not None
    with pytest.raises(Conflict) as caught:
        office.service.images.delete(held.digest)
    assert "'mine' of project 'default'" in caught.value.message and "request delete mine" in caught.value.hint
    for number in range(3):
        (office.yard.site.folder / "motd").write_text(f"new {number}")
        office.yard.service.registered_images.ask("web")
        office.yard.work()
        office.service.images.retire("web", office.service.build(held.build_id).recipe)
    left = [version.digest for version in office.service.images.versions("web")]
    assert held.digest in left and len(left) == 2
    office.requests.delete("default", "mine")
    office.service.images.delete(held.digest)
    assert office.service.images.versions("web")[-1].digest != held.digest


def test_a_version_of_a_want_goes_when_nobody_has_held_it_for_long(office: Office) -> None:
    office.yard.register(WEB)
    kept = office.ask_for("of-a-recipe", "web").request.build_id
    gone, moved, held = (office.ask(name, name).request.build_id for name in ("gone", "moved", "held"))
    office.ask("holds-it-too", "held")
    office.yard.work()
    for name in ("gone", "held", "of-a-recipe"):
        office.requests.delete("default", name)
    office.ask("moved", "to another text")
    assert left_after(office, days=29) >= {kept, gone, moved, held}
    office.ask("again", "gone")
    assert left_after(office, days=31) == {kept, gone, held}
    office.requests.delete("default", "again")
    assert left_after(office, days=31) == {kept, held}
    assert noted(office) == set()


def test_what_is_still_built_or_built_upon_is_looked_at_later(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = office.ask("mine")
    office.requests.delete("default", "mine")
    assert left_after(office, days=31) == set() and noted(office) == {asked.request.build_id}
    office.yard.work()
    refused = Conflict("it is used by build 123")
    with monkeypatch.context() as used:
        used.setattr(office.service.images, "remove", lambda version: (_ for _ in ()).throw(refused))
        assert left_after(office, days=31) == {asked.request.build_id}
    assert left_after(office, days=31) == set() and noted(office) == set()


def left_after(office: Office, days: float) -> set[str | None]:
    """The builds whose versions are there when the notes are so much older."""
    with office.service.database.begin() as conn:
        conn.execute(sa.update(unheld).values(since=time.time() - days * 86400.0))
    Retention(office.service, Ages(office.service.database, "here")).round()
    return {version.build_id for version in office.service.images.versions()}


def noted(office: Office) -> set[str]:
    with office.service.database.read() as conn:
        return set(conn.scalars(sa.select(unheld.c.build_id)))


def test_a_build_that_a_request_names_is_not_forgotten(office: Office) -> None:
    asked = office.ask("mine")
    assert asked.build is not None
    office.trace.set(f"fail-{asked.request.image}")
    office.yard.work()
    office.service.abort(asked.build.id)
    office.yard.work()

    def forgettable() -> list[str]:
        with office.service.database.read() as conn:
            return retention.builds_to_forget(conn, before=9e9, limit=10)

    assert office.service.build(asked.build.id).state is BuildState.ABORTED
    assert forgettable() == []
    office.requests.delete("default", "mine")
    assert forgettable() == [asked.build.id]


def test_a_newer_event_does_not_withdraw_what_somebody_asked_for(office: Office) -> None:
    office.yard.register(WEB + "    on: [{event: git.push}]\n")
    office.yard.push()
    office.yard.dispatcher.once()
    joined = office.ask_for("mine", "web")
    assert joined.build is not None and joined.build.state is BuildState.QUEUED
    office.yard.push()
    office.yard.dispatcher.once()
    assert office.service.build(joined.build.id).state is BuildState.QUEUED
    assert office.builds() == 2


def test_a_recipe_that_changes_meanwhile_is_asked_again(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.yard.register(WEB)
    pin = office.service.submitter.wanted

    def changed_meanwhile(*given: Any) -> Any:
        wanted = pin(*given)
        office.yard.register(WEB.replace("/etc/motd", "/etc/issue"))
        return wanted

    monkeypatch.setattr(office.service.submitter, "wanted", changed_meanwhile)
    with pytest.raises(Conflict, match="changed at this moment"):
        office.ask_for("mine", "web")
    with pytest.raises(NotFound):
        office.get("mine")
    assert office.builds() == 0


def test_a_project_has_a_bound(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalog").mkdir()
    options = {"catalog__path": str(tmp_path / "catalog"), "catalog__max_requests": "2", "catalog__dib": "true"}
    with open_yard(tmp_path, database_url, monkeypatch, **options) as yard:
        office = Office(yard)
        office.ask("one")
        office.ask("two")
        with pytest.raises(Conflict, match="as many as it may have"):
            office.ask("three")
        assert office.ask("two", "another text").request.name == "two"
        assert office.ask("three", project="acme").request.project == "acme"
        office.requests.delete("default", "one")
        office.ask("three")


def test_what_the_catalog_does_not_take_leaves_no_trace(office: Office) -> None:
    with pytest.raises(BadInput):
        office.requests.put(ImageRequest("default", "mine", ""), Want(os="tiny", pip_packages=["flask"]))
    assert office.requests.select("default") == [] and office.builds() == 0


def test_equal_wants_of_many_at_once_are_one_build(office: Office) -> None:
    packages = [f"package-{number}" for number in range(20)]

    def ask(number: int) -> str | None:
        mixed = random.Random(number).sample(packages, len(packages))
        want = Want(os="tiny", packages=mixed)
        return office.requests.put(ImageRequest(f"project-{number % 3}", f"stack-{number}", ""), want).request.build_id

    with ThreadPoolExecutor(16) as clients:
        found = set(clients.map(ask, range(96)))
    assert len(found) == 1 and office.builds() == 1


def test_a_version_is_either_held_or_deleted(office: Office) -> None:
    """Whoever comes second knows: no request holds a version that is gone."""
    office.ask("first")
    office.yard.work()
    for number in range(6):
        version = office.ask("first").version
        if version is None:
            office.yard.work()
            version = office.get("first").version
        assert version is not None
        office.requests.delete("default", "first")
        begin = threading.Barrier(2)
        refused: list[Conflict] = []

        def delete(digest: str = version.digest, begin: threading.Barrier = begin, refused: Any = refused) -> None:
            begin.wait()
            try:
                office.service.images.delete(digest)
            except (Conflict, NotFound) as error:
                refused.append(error)

        deleting = threading.Thread(target=delete)
        deleting.start()
        begin.wait()
        asked = office.ask(f"racer-{number}")
        deleting.join()
        state = office.get(f"racer-{number}").state
        if refused:
            assert state is RequestState.READY, refused
        else:
            assert asked.request.build_id != version.build_id and state is RequestState.BUILDING
        office.requests.delete("default", f"racer-{number}")


def test_pages_are_in_the_order_of_names(office: Office) -> None:
    for name in ("c", "a", "b", "B"):
        office.ask(name)
    with office.service.database.read() as conn:
        first = [one.name for one in requests.select(conn, "default", 2)]
        rest = [one.name for one in requests.select(conn, "default", 10, first[-1])]
    assert sorted([*first, *rest]) == ["B", "a", "b", "c"] and not set(first) & set(rest)
