"""Commits that events tell of become inputs, of every type of event, and a ref's pin never goes backwards by a late or repeated one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.background.flag import Flag
from imageflow.model import Event, Outcome
from imageflow.persistence import events, registry
from imageflow.persistence.tables import observations
from tests.small.yard import Yard, open_yard

A, B, C, D = (letter * 40 for letter in "abcd")
MAIN = "git:acme/infra#refs/heads/main"
RECIPE = """
images:
  - name: pushed
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: git.push}, {event: git.tag}]
  - name: merged
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: git.merge, where: {repository: infra}}]
  - name: tested
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: gitlab.pipeline}, {event: com.example.release}]
"""


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with open_yard(tmp_path, "", monkeypatch) as yard:
        yard.register(RECIPE)
        yard.numbers = itertools.count()  # type: ignore[attr-defined]
        yield yard


def tell(yard: Yard, after: str | None, *before: str | None, type: str = "git.push", **more: Any) -> Event:
    """Receive an event and match it; `before` only where the sender tells it."""
    listener, proof = more.pop("listener", "http"), more.pop("proof", None)
    source = more.pop("source", "https://git.example/acme/infra")
    data = {"repository": "infra", "owner": "acme", "ref": "refs/heads/main", "after": after} | more
    if before:
        data["before"] = before[0]
    event = Event(source, f"e{next(yard.numbers)}", type, subject=data["ref"], data=data)  # type: ignore[attr-defined]
    [receipt] = yard.inbox.receive([event], listener=listener, proof=proof)
    assert receipt.new
    yard.settle()
    return yard.service.events.get(receipt.event.seq)[0]


def pin(yard: Yard, image: str = "pushed", name: str = MAIN) -> str | None:
    with yard.service.database.read() as conn:
        return registry.learnt(conn, image).get(name)


def reason(yard: Yard, event: Event) -> str:
    return yard.service.events.reactions([event.seq])[0].reason


def test_a_history_that_comes_back_moves_the_pin_back(yard: Yard) -> None:
    for after, before in ((A, None), (B, A), (A, B), (B, A), (A, B)):
        event = tell(yard, after, before)
        assert pin(yard) == after
        assert "not known" not in reason(yard, event)


def test_a_push_that_comes_late_moves_nothing_back(yard: Yard) -> None:
    tell(yard, A, None)
    tell(yard, C, B)
    late = tell(yard, B, A)
    assert pin(yard) == C
    assert "is not known" in reason(yard, late) and f"it stays at {C[:12]}" in reason(yard, late)
    assert yard.outcomes(late.seq) == {"pushed": Outcome.REUSED}
    tell(yard, D, C)
    assert pin(yard) == D


def test_a_push_after_one_that_was_lost_moves_the_pin_and_says_what_is_missing(yard: Yard) -> None:
    tell(yard, A, None)
    event = tell(yard, C, B)
    assert pin(yard) == C and f"between {A[:12]} and {B[:12]} is not known" in reason(yard, event)


def test_the_poller_knows_where_a_ref_is(yard: Yard) -> None:
    tell(yard, A, None)
    tell(yard, B, A)
    tell(yard, A, C, listener="git")
    assert pin(yard) == A


@pytest.mark.parametrize("polled", ["ssh://Git.Example:29418/acme/infra", "git@git.example:acme/infra.git"])
def test_a_late_webhook_does_not_move_back_what_a_poller_saw_by_another_address(yard: Yard, polled: str) -> None:
    tell(yard, A, None)
    tell(yard, B, A, listener="git", source=polled)
    tell(yard, C, B, listener="git", source=polled)
    tell(yard, B, A)
    assert pin(yard) == C


def test_the_same_name_at_another_forge_is_another_repository(yard: Yard) -> None:
    tell(yard, A, None)
    tell(yard, C, D, source="https://other.example/acme/infra")
    tell(yard, B, A)
    assert pin(yard) == B


def test_by_hand_any_commit_may_be_told(yard: Yard) -> None:
    for after in (A, B, A):
        tell(yard, after)
        assert pin(yard) == after


def test_a_tag_that_is_made_again_is_told_again(yard: Yard) -> None:
    tag, ref = "git:acme/infra#refs/tags/v1", "refs/tags/v1"
    proofs = {after: after[0] * 64 for after in (A, B)}  # the bodies are the same, so the signatures are
    for after in (A, B, A):
        tell(yard, after, None, type="git.tag", ref=ref, proof=proofs[after])
        assert pin(yard, name=tag) == after
        tell(yard, None, after, type="git.delete", ref=ref)


@pytest.mark.parametrize("gone", [False, True], ids=["within", "after"])
def test_a_replay_moves_nothing_within_retention_and_after_it(yard: Yard, gone: bool) -> None:
    tell(yard, B, A, proof="1" * 64)
    tell(yard, C, B, proof="2" * 64)
    if gone:
        with yard.service.database.begin() as conn:
            assert events.prune(conn, 1e12) >= 2
    replay = tell(yard, B, A, proof="1" * 64)
    assert pin(yard) == C and "is not known" in reason(yard, replay)


def test_a_replay_after_retention_that_was_never_matched_moves_nothing(yard: Yard) -> None:
    yard.service.recipes.remove("recipe")
    tell(yard, B, A, proof="1" * 64)
    with yard.service.database.begin() as conn:
        assert events.prune(conn, 1e12) == 1
    yard.register(RECIPE)
    replay = tell(yard, B, A, proof="1" * 64)
    assert pin(yard) is None and "its signature was used before" in reason(yard, replay)


def test_what_is_remembered_is_forgotten_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_yard(tmp_path, "", monkeypatch, events__retention="0", events__proofs="0") as yard:
        yard.register(RECIPE)
        yard.numbers = itertools.count()  # type: ignore[attr-defined]
        tell(yard, B, A, proof="1" * 64)

        def known() -> tuple[object, object]:
            with yard.service.database.read() as conn:
                names = conn.execute(sa.select(observations.c.name)).scalars().all()
                return [one for one in names if one.startswith(("head:", "proof:"))], events.select(conn)

        assert known()[0] and known()[1]
        stop, end = Flag(), time.monotonic() + 30
        thread = threading.Thread(target=yard.dispatcher.run, args=(stop,))
        thread.start()
        try:
            while known() != ([], []) and time.monotonic() < end:
                stop.wait(0.05)
        finally:
            stop.set()
            thread.join()
        assert known() == ([], [])


def test_two_hooks_with_one_secret_build_once(yard: Yard) -> None:
    tell(yard, A, None, proof="1" * 64)
    second = tell(yard, A, None, proof="1" * 64)
    assert yard.outcomes(second.seq) == {"pushed": Outcome.REUSED} and pin(yard) == A


def test_merges_are_inputs(yard: Yard) -> None:
    for after in (A, B):
        event = tell(yard, after, C, type="git.merge")
        assert yard.outcomes(event.seq) == {"merged": Outcome.CREATED}
        assert pin(yard, "merged") == after


@pytest.mark.parametrize("push_first", [True, False])
def test_a_merge_told_in_short_is_the_commit_of_the_push_that_comes_with_it(yard: Yard, push_first: bool) -> None:
    """Bitbucket Cloud tells the merge's commit in twelve digits, and the push's in full."""
    tell(yard, A, None)
    told: list[tuple[Any, ...]] = [(B, A, "git.push"), (B[:12], A[:12], "git.merge")]
    seqs = [tell(yard, after, before, type=type).seq for after, before, type in told[:: 1 if push_first else -1]]
    assert pin(yard, "merged") == (B if push_first else B[:12])
    said = [one.reason for one in yard.service.events.reactions(seqs) if "told in short" in one.reason]
    assert len(said) == (0 if push_first else 1)
    again = tell(yard, B, A, type="git.merge")
    assert yard.outcomes(again.seq) == {"merged": Outcome.REUSED}, "the same commit is no other input"
    assert pin(yard) == B


def test_a_merge_of_a_branch_that_began_long_ago_is_new(yard: Yard) -> None:
    tell(yard, A, None)
    tell(yard, B, A)
    tell(yard, C, A, type="git.merge")
    tell(yard, C, B)
    assert (pin(yard, "merged"), pin(yard)) == (C, C)


def test_a_merge_without_a_commit_says_so(yard: Yard) -> None:
    event = tell(yard, None, type="git.merge")
    assert "it does not say which commit" in reason(yard, event)


def test_other_events_about_a_commit_are_inputs(yard: Yard) -> None:
    for sha in (A, B):
        data = {
            "project": {"path_with_namespace": "acme/infra"},
            "object_attributes": {"sha": sha, "ref": "main", "tag": False},
        }
        [receipt] = yard.inbox.receive(
            [Event("https://git.example", sha, "gitlab.pipeline", data=data)], listener="http"
        )
        yard.settle()
        assert yard.outcomes(receipt.event.seq) == {"tested": Outcome.CREATED}
        assert pin(yard, "tested") == sha
    event = tell(yard, C, type="com.example.release")
    assert yard.outcomes(event.seq) == {"tested": Outcome.CREATED} and pin(yard, "tested") == C


@pytest.mark.parametrize("odd", ["\ud800" * 20, "a\nb", "x" * 5000, "☃" * 40])
def test_odd_names_of_commits_do_no_harm(yard: Yard, odd: str) -> None:
    for after, before in ((A, odd), (odd, A), (A, odd), (B, C), (odd, A), (odd[:7], None)):
        event = tell(yard, after, before)
        assert event.verdict == "matched"
