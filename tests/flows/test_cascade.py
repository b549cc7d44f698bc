"""Which builds events bring about, in which order, and what holds them back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageflow.model import BuildState, Event, Outcome, Verdict
from imageflow.persistence import builds
from imageflow.rebuilds.behind import reconcile
from imageflow.rebuilds.dispatcher import Dispatcher
from tests.small.yard import PUSH, Yard, open_yard

DIAMOND = """
images:
  - name: a
    method: dib
    dib: {elements: [tiny], skip-base: true}
    configure: [{files: [{path: /etc/motd, source: motd}]}]
    on: [{event: git.push, where: {repository: infra}}]
  - {name: b, method: boot, base: {image: a}, on: [{image: a}]}
  - {name: c, method: boot, base: {image: a}, on: [{image: a}]}
  - {name: d, method: boot, base: {image: b}, on: [{image: b}, {image: c}]}
  - {name: e, method: boot, base: {image: d}, on: [{image: d}]}
"""


@pytest.fixture
def yard(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with open_yard(tmp_path, database_url, monkeypatch) as yard:
        yield yard


def test_a_diamond_is_rebuilt_once_each_in_order(yard: Yard) -> None:
    yard.register(DIAMOND)
    yard.push()
    order = yard.settle()
    assert sorted(order) == ["a", "b", "c", "d", "e"]
    assert (order[0], set(order[1:3]), order[3:]) == ("a", {"b", "c"}, ["d", "e"])
    second = yard.push()
    assert sorted(yard.settle()) == ["a", "b", "c", "d", "e"]
    assert yard.outcomes(second) == {"a": Outcome.CREATED}
    newest = yard.service.builds(image="d", limit=1)[0]
    assert "b has a new version" in newest.reason and "c has a new version" in newest.reason


def test_the_same_content_cuts_the_cascade_off(yard: Yard) -> None:
    yard.register(DIAMOND)
    yard.trace.set("content-a", "stays")
    yard.push()
    assert len(yard.settle()) == 5
    yard.push()
    assert yard.settle() == ["a"]
    [publication] = yard.service.events.select(type="imageflow.image.publish", limit=1)
    assert set(yard.outcomes(publication.seq).values()) == {Outcome.UNCHANGED}
    yard.trace.set("content-a", "differs")
    yard.push()
    assert len(yard.settle()) == 5


def test_the_cut_off_compares_with_what_an_image_was_built_from(yard: Yard) -> None:
    """Not with its base's last version: one that nobody could build on in between must not hide a change."""
    yard.register(DIAMOND)
    yard.trace.set("content-a", "one")
    yard.push()
    yard.settle()
    yard.trace.set("content-a", "two")
    yard.trace.set("fail-b")
    yard.push()
    yard.settle()
    yard.trace.unset("fail-b")
    paused = yard.service.builds(image="b", states=[BuildState.PAUSED])[0]
    yard.service.abort(paused.id)
    yard.settle()
    yard.push()  # a third version, with the content of the second
    assert "b" in yard.settle()


def test_a_paused_parent_holds_its_descendants_back(yard: Yard) -> None:
    yard.register(DIAMOND)
    yard.trace.set("fail-b")
    yard.push()
    assert yard.settle() == ["a", "b", "c"]
    assert "waits for b" in yard.held()["d"] and "paused" in yard.held()["d"]
    yard.trace.unset("fail-b")
    paused = yard.service.builds(image="b", states=[BuildState.PAUSED])[0]
    yard.service.resume(paused.id)
    assert yard.settle() == ["b", "d", "e"]
    assert yard.held() == {}


def test_an_operator_can_let_it_go_or_drop_it(yard: Yard) -> None:
    yard.register(DIAMOND)
    yard.push()
    yard.settle()
    yard.trace.set("fail-b")
    yard.push()
    yard.settle()
    assert list(yard.held()) == ["d"]
    yard.service.events.release("d")
    assert "d" in yard.settle()
    yard.push()
    yard.settle()
    for image in list(yard.held()):
        yard.service.events.drop(image)
    assert yard.held() == {}


def test_an_event_during_a_build_asks_for_exactly_one_more(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    yard.push()
    yard.dispatcher.once()
    [queued] = yard.service.builds()
    with yard.service.database.begin() as conn:
        builds.change(conn, queued.id, to=BuildState.RUNNING, started=1.0)
    late = [yard.push() for _ in range(20)]
    yard.dispatcher.once()
    assert "one more after it" in yard.held()["a"]
    with yard.service.database.begin() as conn:
        builds.change(conn, queued.id, to=BuildState.QUEUED)
    yard.work()
    assert yard.settle() == ["a"]
    assert {frozenset(yard.outcomes(seq).items()) for seq in late} == {frozenset({("a", Outcome.CREATED)})}
    assert len(yard.service.builds(image="a")) == 2


def test_a_queued_build_is_superseded_by_a_newer_one(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    first = yard.push()
    yard.dispatcher.once()
    second = yard.push()
    yard.dispatcher.once()
    newer, older = yard.service.builds(image="a")
    assert older.state is BuildState.SUPERSEDED and newer.id in (older.error or "")
    assert yard.outcomes(first) == {"a": Outcome.SUPERSEDED} and yard.outcomes(second) == {"a": Outcome.CREATED}
    assert yard.service.events.get(first)[0].verdict is Verdict.SUPERSEDED
    assert yard.settle() == ["a"]


def test_a_storm_is_one_build_now_and_one_after(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    yard.push()
    yard.dispatcher.once()
    batch = [replace(PUSH, id=f"storm-{number}") for number in range(1000)]
    (yard.site.folder / "motd").write_text("storm")
    yard.inbox.receive(batch, listener="http")
    assert len(yard.settle()) + len(yard.service.builds(image="a", states=[BuildState.SUPERSEDED])) <= 2
    assert yard.held() == {}


def test_nothing_that_changed_is_no_build_and_says_why(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    yard.push()
    yard.settle()
    again = yard.push(changed=False)
    assert yard.settle() == []
    [reaction] = yard.service.events.get(again)[1]
    assert reaction.outcome is Outcome.REUSED and "nothing that goes into it changed" in (reaction.detail or "")


def test_a_recipe_that_cannot_be_built_refuses_and_says_why(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    (yard.site.folder / "motd").unlink()
    seq = yard.push(changed=False)
    yard.settle()
    [reaction] = yard.service.events.get(seq)[1]
    assert reaction.outcome is Outcome.REFUSED and "motd" in (reaction.detail or "")


def test_what_comes_too_fast_waits_and_is_not_lost(yard: Yard) -> None:
    image = "  - name: i{n}\n    method: dib\n    dib: {{elements: [tiny], skip-base: true}}\n    on: [{{event: git.push}}]\n"
    yard.register("images:\n" + "".join(image.format(n=n) for n in range(35)))
    yard.push()
    assert len(yard.dispatcher.once()) == 30
    assert yard.dispatcher.once() == []
    assert set(yard.held().values()) == {"30 builds a minute at most ([triggers] max_per_minute)"}
    assert len(yard.held()) == 5


def test_an_event_that_nothing_wants_says_so(yard: Yard) -> None:
    yard.register(DIAMOND)
    [other, strange] = yard.inbox.receive(
        [replace(PUSH, id="x", data={"repository": "other"}), replace(PUSH, id="y", type="acme.deployed")],
        listener="http",
    )
    yard.settle()
    for receipt, said in ((other, "none with these values"), (strange, "no registered recipe")):
        event = yard.service.events.get(receipt.event.seq)[0]
        assert event.verdict is Verdict.NO_TRIGGER and said in (event.reason or "")


def test_our_own_image_in_a_store_asks_for_nothing(yard: Yard) -> None:
    yard.register(
        """
        images:
          - name: i
            method: dib
            dib: {elements: [tiny], skip-base: true}
            on: [{event: "glance.image.*"}]
        """
    )
    data = {"name": "i", "properties": {"imageflow:build_id": "0123456789ab"}}
    [receipt] = yard.inbox.receive([Event("glance", "1", "glance.image.activate", data=data)], listener="notifications")
    assert yard.settle() == []
    assert "our own publication" in (yard.service.events.get(receipt.event.seq)[0].reason or "")


def test_simulate_changes_nothing_and_tells_all(yard: Yard) -> None:
    yard.register(DIAMOND)
    found = yard.service.events.simulate(replace(PUSH, id="never"))
    assert [(one.image, one.verdict) for one in found.consequences] == [
        ("a", "build"),
        ("b", "after"),
        ("c", "after"),
        ("d", "after"),
        ("e", "after"),
    ]
    assert yard.service.events.select() == [] and yard.service.builds() == []
    yard.push()
    yard.settle()
    assert yard.service.events.simulate(replace(PUSH, id="1")).verdict == "duplicate"
    [same] = yard.service.events.simulate(replace(PUSH, id="never")).consequences
    assert (same.image, same.verdict) == ("a", "reuse")


def test_a_replay_is_looked_at_again(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    seq = yard.push()
    yard.settle()
    (yard.site.folder / "motd").write_text("another")
    yard.service.events.replay(seq)
    assert yard.settle() == ["a"]


def test_reconcile_asks_for_what_is_behind(yard: Yard) -> None:
    """A parent that moved on while its child was not registered."""
    parent, _, rest = DIAMOND.partition("  - {name: b")
    child = "images:\n  - {name: b" + rest.partition("\n")[0] + "\n"
    yard.register(parent, "parent")
    yard.register(child, "child")
    yard.push()
    assert yard.settle() == ["a", "b"]
    yard.service.recipes.remove("child")
    yard.push()
    assert yard.settle() == ["a"]
    assert reconcile(yard.service.database) == []
    yard.register(child, "child")
    assert reconcile(yard.service.database) == ["b"]
    assert reconcile(yard.service.database) == []
    assert yard.settle() == ["b"]
    assert "did not look" in yard.service.builds(image="b", limit=1)[0].reason
    assert reconcile(yard.service.database) == []


def test_a_commit_is_an_input_whoever_tells_of_it(yard: Yard) -> None:
    """The same commit again, from a webhook or a poller, is nothing new; another one is."""
    yard.register(DIAMOND.partition("  - {name: b")[0])
    data = {"repository": "infra", "owner": "acme", "ref": "refs/heads/main", "before": "0" * 40, "after": "a" * 40}

    def told(id: str, source: str, after: str) -> list[str]:
        event = replace(PUSH, id=id, source=source, data={**data, "after": after})
        yard.inbox.receive([event], listener="http")
        return yard.settle()

    assert told("1", "https://git.example/acme/infra", "a" * 40) == ["a"]
    assert told("2", "https://git.example/acme/infra.git", "a" * 40) == []
    assert told("3", "https://git.example/acme/infra", "b" * 40) == ["a"]
    reason = yard.service.builds(image="a", limit=1)[0].reason
    assert reason.startswith("git.push of refs/heads/main in infra") and f"{'a' * 12} → {'b' * 12}" in reason
    assert yard.service.submit(yard.site.folder / "recipe.yaml")[0].verdict == "reused"


def test_a_recipe_that_is_on_another_host_is_left_to_it(yard: Yard) -> None:
    yard.register(DIAMOND.partition("  - {name: b")[0])
    here, away = yard.site.folder, yard.site.folder.with_name("away")
    seq = yard.push()
    here.rename(away)
    try:
        assert yard.dispatcher.once() == ["a"]
        assert yard.dispatcher.once() == []
    finally:
        away.rename(here)
    assert "is not on" in yard.held()["a"] and yard.outcomes(seq) == {"a": None}
    other = Dispatcher(
        yard.service.config, yard.service.database, yard.service.submitter, yard.service.checkouts, yard.inbox
    )
    assert other.once() == ["a"]
    assert yard.outcomes(seq) == {"a": Outcome.CREATED}


def test_an_image_is_known_by_the_name_that_it_is_published_under(yard: Yard) -> None:
    """Order and holds, too."""
    renamed = DIAMOND.replace(
        "{name: b, method: boot, base: {image: a}", "{name: b, method: boot, publish: {name: bee}, base: {image: a}"
    )
    yard.register(renamed.replace("{image: b}", "{image: bee}"))
    assert yard.service.recipes.graph()["d"] == ["b", "c"]
    yard.trace.set("fail-b")
    yard.push()
    yard.settle()
    assert "waits for b" in yard.held()["d"]
    yard.trace.unset("fail-b")
    yard.service.resume(yard.service.builds(image="b", states=[BuildState.PAUSED])[0].id)
    assert yard.settle() == ["b", "d", "e"]


def test_a_recipe_that_changes_while_its_image_is_looked_at_is_looked_at_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = DIAMOND.partition("  - {name: b")[0]
    yard.register(recipe)
    seq = yard.push()
    pin, pinned = yard.service.submitter.wanted, []

    def wanted(*arguments: Any) -> Any:
        found = pin(*arguments)
        if not pinned:
            yard.register(recipe.replace("path: /etc/motd", "path: /etc/issue"))
        pinned.append(found)
        return found

    monkeypatch.setattr(yard.service.submitter, "wanted", wanted)
    assert yard.dispatcher.once() == ["a"]
    assert yard.outcomes(seq) == {"a": None}
    yard.site.await_that(lambda: yard.dispatcher.once() and yard.outcomes(seq) == {"a": Outcome.CREATED})
    [build] = yard.service.builds(image="a")
    assert "/etc/issue" in str(yard.service.build(build.id).recipe)


def test_a_chain_of_images_is_built_from_one_reading_of_its_recipe(yard: Yard, tmp_path: Path) -> None:
    """What is read again for the next image may be another recipe by then."""
    file, reading, read = tmp_path / "chain.yaml", True, []
    (tmp_path / "motd").write_text("0")
    file.write_text(DIAMOND)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if reading and event == "open" and arguments[0] == str(file):
            read.append(event)

    for _ in range(3):  # a, then b and c, then d
        yard.service.submit(file)
        yard.work()
    sys.addaudithook(hear)
    try:
        assert [each.verdict for each in yard.service.submit(file)] == ["reused"] * 4 + ["created"]
        assert len(read) == 1
        assert len(yard.service.plan(file)) == 5
        assert len(read) == 2
    finally:
        reading = False
