"""Gerrit's lines: whatever is in them, or missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.errors import BadInput
from imageflow.listeners import gerrit_lines
from imageflow.listeners.gerrit_lines import LONGEST, LineBuffer, read, read_query

A, B, ZEROS = "a" * 40, "b" * 40, "0" * 40
UPDATED = {
    "submitter": {"name": "Jane", "username": "jane"},
    "refUpdate": {"oldRev": A, "newRev": B, "refName": "refs/heads/main", "project": "acme/infra"},
    "type": "ref-updated",
    "eventCreatedOn": 1777777777,
}
MERGED = {
    "submitter": {"name": "Jane", "username": "jane"},
    "newRev": B,
    "patchSet": {"number": 2, "revision": A, "ref": "refs/changes/11/11/2"},
    "change": {
        "project": "acme/infra",
        "branch": "main",
        "id": "I" + "c" * 40,
        "number": 11,
        "subject": "Add a package",
        "status": "MERGED",
    },
    "refName": "refs/heads/main",
    "type": "change-merged",
    "eventCreatedOn": 1777777777,
}
ROW = {
    "project": "acme/infra",
    "branch": "main",
    "id": "I" + "c" * 40,
    "number": 11,
    "subject": "Add a package",
    "lastUpdated": 1777999999,
    "status": "MERGED",
    "currentPatchSet": {
        "number": 2,
        "revision": A,
        "approvals": [
            {"type": "Code-Review", "value": "2", "grantedOn": 1777777000},
            {"type": "SUBM", "value": "1", "grantedOn": 1777777777, "by": {"username": "jane"}},
        ],
    },
}
STATS = {"type": "stats", "rowCount": 1, "runTimeMilliseconds": 5, "moreChanges": False}


def line(body: Any) -> bytes:
    return json.dumps(body).encode()


def changed(body: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**body, **values}


def test_a_ref_that_moved() -> None:
    [event], when = read(line(UPDATED))
    assert when == event.time == 1777777777
    assert (event.source, event.type, event.subject) == ("gerrit:acme/infra", "git.push", "refs/heads/main")
    assert event.id == f"ref-updated:acme/infra refs/heads/main@{A}..{B}@1777777777"
    assert event.data == {
        "repository": "infra",
        "owner": "acme",
        "ref": "refs/heads/main",
        "branch": "main",
        "tag": None,
        "before": A,
        "after": B,
        "pusher": "jane",
        "url": None,
    }


@pytest.mark.parametrize(
    ("update", "kind"),
    [
        ({"refName": "refs/heads/main", "newRev": ZEROS, "oldRev": A}, "git.delete"),
        ({"refName": "refs/tags/v1", "newRev": A, "oldRev": ZEROS}, "git.tag"),
        ({"refName": "refs/tags/v1", "newRev": ZEROS, "oldRev": A}, "git.delete"),
        ({"refName": "refs/changes/11/11/meta", "newRev": A, "oldRev": B}, "gerrit.ref-updated"),
        ({"refName": "main", "newRev": A}, "git.push"),
    ],
)
def test_kinds_of_ref_updates(update: dict[str, str], kind: str) -> None:
    [event], _ = read(line(changed(UPDATED, refUpdate={"project": "infra", **update})))
    assert event.type == kind


@pytest.mark.parametrize(
    "update",
    [
        {"refName": "refs/heads/main", "oldRev": A},
        {"refName": "refs/heads/main", "oldRev": A, "newRev": "nonsense"},
        {"newRev": A},
        [],
        None,
    ],
)
def test_a_ref_update_that_does_not_say_enough_is_no_deletion(update: Any) -> None:
    with pytest.raises(BadInput):
        read(line(changed(UPDATED, refUpdate=update)))


def test_several_at_once() -> None:
    body = {
        "type": "batch-ref-updated",
        "refUpdates": [UPDATED["refUpdate"], {**MERGED, "project": "x", "refName": "refs/heads/y", "newRev": A}],
    }
    events, _ = read(line(body))
    assert [event.subject for event in events] == ["refs/heads/main", "refs/heads/y"]


def test_a_merge_is_the_same_event_from_the_stream_and_from_a_query() -> None:
    [streamed], _ = read(line(MERGED))
    page = read_query([line(ROW), line(STATS)], 1777777000.0)
    [queried] = page.events
    assert (streamed.source, streamed.id) == (queried.source, queried.id)
    assert streamed.id == "change-merged:acme/infra~11"
    assert streamed.type == queried.type == "git.merge"
    assert streamed.subject == queried.subject == "refs/heads/main"
    assert (streamed.data["after"], queried.data["after"]) == (B, A)
    assert streamed.data["pusher"] == queried.data["pusher"] == "jane"
    assert streamed.time == queried.time
    [older], _ = read(line(changed(MERGED, change=changed(MERGED["change"], number="11"))))  # type: ignore[arg-type]
    assert older.id == streamed.id, "Gerrit 2 says numbers as texts"


def test_a_query_leaves_out_what_was_merged_before() -> None:
    """`since:` is about the last change of a change: a comment on an old one is not a merge."""
    assert read_query([line(ROW), line(STATS)], 1777777778.0).events == ()
    without = changed(ROW, currentPatchSet={"revision": A})
    assert len(read_query([line(without), line(STATS)], 1777777778.0).events) == 1


def test_a_query_that_has_more_and_one_that_is_refused() -> None:
    page = read_query([line(ROW), b"", b"rubbish", line(changed(STATS, moreChanges=True))], 0.0)
    assert (page.rows, page.more, len(page.events)) == (1, True, 1)
    with pytest.raises(BadInput, match="Unsupported operator"):
        read_query([line({"type": "error", "message": "Unsupported operator since"})], 0.0)


def test_other_events_keep_their_type() -> None:
    body = {"type": "comment-added", "project": {"name": "acme/infra"}, "eventCreatedOn": 5, "comment": "nice"}
    [event], when = read(line(body))
    assert (event.type, event.source, event.data, when) == ("gerrit.comment-added", "gerrit:acme/infra", body, 5)
    [large], _ = read(line(body | {"comment": "x" * 100_000}))
    assert "comment" not in large.data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"ref-updated"',
        b"\xff\xfe",
        b"{}",
        b'{"type": 5}',
        b'{"type": "a b"}',
        b'{"type": "' + b"x" * 200 + b'"}',
        b'{"type": "x", "v": NaN}',
        b"[" * 200_000,
        b'{"type": "x", "y": "' + b"x" * LONGEST + b'"}',
        b'{"type": "change-merged"}',
        line(changed(MERGED, change={"project": "a\nb", "number": 1})),
    ],
)
def test_rubbish(raw: bytes) -> None:
    with pytest.raises(BadInput):
        read(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "type",
        "refUpdate",
        "refUpdates",
        "oldRev",
        "newRev",
        "refName",
        "project",
        "change",
        "patchSet",
        "number",
        "branch",
        "id",
        "subject",
        "eventCreatedOn",
        "lastUpdated",
        "currentPatchSet",
        "approvals",
        "grantedOn",
        "by",
        "submitter",
        "name",
        "username",
        "revision",
    ]
)
KINDS = st.sampled_from(["ref-updated", "change-merged", "batch-ref-updated", "patchset-created", "stats", A, ZEROS])
BODIES = st.recursive(
    JSON | KINDS, lambda each: st.dictionaries(KEYS, each, max_size=6) | st.lists(each, max_size=2), max_leaves=12
)


@given(
    st.binary()
    | BODIES.map(line)
    | st.builds(lambda kind, body: line({**(body if isinstance(body, dict) else {}), "type": kind}), KINDS, BODIES)
)
def test_no_line_crashes(raw: bytes) -> None:
    try:
        events, when = read(raw)
    except BadInput as error:
        assert len(error.message) < 300
        return
    assert when is None or 0 < when < 1e11
    for event in events:
        assert event.source and event.id and event.type
        (event.source + event.id + event.type + (event.subject or "")).encode()
        json.dumps(event.data, allow_nan=False)


@given(st.lists(st.binary() | BODIES.map(line), max_size=5), st.floats(0, 1e10))
def test_no_answer_crashes(lines: list[bytes], since: float) -> None:
    try:
        read_query(lines, since)
    except BadInput:
        pass


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 9)))
def test_lines_are_the_same_however_they_come(wanted: list[bytes], cuts: list[int]) -> None:
    wanted = [one.replace(b"\n", b"") for one in wanted]
    data, lines, found = b"".join(one + b"\n" for one in wanted), LineBuffer(), []
    for cut in [*cuts, len(data)]:
        lines, whole = lines.feed(data[:cut])
        found += whole
        data = data[cut:]
    assert found == wanted
    assert lines == LineBuffer()


def test_a_line_without_end_is_cut_and_its_rest_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gerrit_lines, "LONGEST", 10)
    lines, found = LineBuffer(), []
    for piece in (b"ok\n0123456", b"789abc", b"defg", b"hi\nok\n", b"01234567890123456\nlast\n"):
        lines, whole = lines.feed(piece)
        found += whole
    assert found == [b"ok", b"0123456789abc", b"ok", b"01234567890123456", b"last"]
    assert lines == LineBuffer()
