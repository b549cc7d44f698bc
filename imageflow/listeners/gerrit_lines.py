"""Events from Gerrit's SSH output, one JSON object per line. Any field may be missing. Pure.

Their form is that of Gerrit's webhooks plugin, so that a rule in a recipe fits both. Their ids are made from
what happened, so that the stream and a query for missed changes give the same event.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from imageflow.errors import BadInput
from imageflow.listeners import refs
from imageflow.model import Event

LONGEST = 1 << 20  # bytes of a line; a longer one is garbage
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_ZEROS = re.compile(r"0+")
_OBJECT = re.compile(r"[0-9a-f]{7,64}")
_TEXT = 1000  # characters of a field that an event's name is made from
_LARGE = 64 << 10  # characters of data of an event of another type than ours


@dataclass(frozen=True, slots=True)
class LineBuffer:
    """Splits pieces into lines; the last line may be incomplete."""

    rest: bytes = b""
    skipping: bool = False  # within a line that was too long

    def feed(self, data: bytes) -> tuple[LineBuffer, list[bytes]]:
        """-> the next buffer, and the complete lines; of a line that is too long, its beginning."""
        *whole, rest = (self.rest + data).split(b"\n")
        lines = whole[1:] if self.skipping and whole else ([] if self.skipping else whole)
        skipping = self.skipping and not whole
        if skipping:
            return LineBuffer(b"", True), []
        if len(rest) > LONGEST:
            return LineBuffer(b"", True), [*lines, rest]
        return LineBuffer(rest), lines


def read(line: bytes) -> tuple[list[Event], float | None]:
    """The events of a stream-events line, and when Gerrit created it; raises BadInput for an invalid line."""
    body = _object(line)
    kind = _text(body, "type")
    if kind is None or not _TYPE.fullmatch(kind):
        raise BadInput("the line does not say which type of event it is")
    when = moment(body.get("eventCreatedOn"))
    if kind == "ref-updated":
        return [_updated(body, _mapping(body, "refUpdate"), when)], when
    if kind == "batch-ref-updated" and isinstance(body.get("refUpdates"), list):
        return [_updated(body, each if isinstance(each, dict) else {}, when) for each in body["refUpdates"]], when
    if kind == "change-merged":
        change = _mapping(body, "change")
        return [_merged(change, _mapping(body, "patchSet"), body, when)], when
    project = _project(body)
    event = Event(
        source=_source(project),
        id=f"{kind}@{when or 0:.0f}:{hashlib.sha256(line.strip()).hexdigest()}",
        type=f"gerrit.{kind}",
        subject=_text(body, "refName"),
        time=when,
        data=body if len(line) <= _LARGE else {"type": kind, "project": project, "bytes": len(line)},
    )
    return [event], when


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a query."""

    events: tuple[Event, ...]
    rows: int
    more: bool


def read_query(lines: Iterable[bytes], since: float) -> Page:
    """The merges since a moment in a query's answer, the newest first; unreadable ones are left out.

    Raises BadInput when Gerrit rejects the query.
    """
    found: list[Event] = []
    rows, more = 0, False
    for body in _objects(lines):
        kind = body.get("type")
        if kind == "error":
            raise BadInput(f"Gerrit refuses the query: {_text(body, 'message') or 'it does not say why'}")
        if kind == "stats":
            more = body.get("moreChanges") is True
            continue
        rows += 1
        patchset = _mapping(body, "currentPatchSet")
        when = _submitted(patchset) or moment(body.get("lastUpdated"))
        if when is None or when >= since:  # the others were only commented on
            try:
                found.append(_merged(body, patchset, {}, when))
            except BadInput:
                continue
    return Page(tuple(found), rows, more)


def moment(value: Any) -> float | None:
    """Seconds since 1970, from Gerrit; None for anything else, and for times outside our range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e11:
        return None
    return float(value)


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST:
        raise BadInput(f"the line has more than {LONGEST >> 20} MiB")
    try:
        body = json.loads(line, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise BadInput("the line is not JSON") from None
    if not isinstance(body, dict):
        raise BadInput("the line is not a JSON object")
    return body


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield _object(line)
        except BadInput:
            continue


def _updated(body: dict[str, Any], update: dict[str, Any], when: float | None) -> Event:
    project, ref = _text(update, "project") or _project(body), _text(update, "refName")
    old, new = _commit(update, "oldRev"), _commit(update, "newRev")
    if project is None or ref is None or (new is None and not _ZEROS.fullmatch(_text(update, "newRev") or "")):
        raise BadInput("the line does not say which ref of which project changed, and to what")
    ref = ref if ref.startswith("refs/") else f"refs/heads/{ref}"  # as Gerrit 2 sends it
    ours = ref.startswith(("refs/heads/", "refs/tags/"))  # not refs/changes/…, of which there are many
    return Event(
        source=_source(project),
        id=f"ref-updated:{project} {ref}@{old or '-'}..{new or '-'}@{when or 0:.0f}",
        type=refs.type_of(ref, new) if ours else "gerrit.ref-updated",
        subject=ref,
        time=when,
        data=_data(project, ref, old, new, _mapping(body, "submitter")),
    )


def _merged(change: dict[str, Any], patchset: dict[str, Any], body: dict[str, Any], when: float | None) -> Event:
    """A change is merged once: its name is the event's id."""
    project, branch = _text(change, "project") or _project(body), _text(change, "branch")
    number, ref = change.get("number"), _text(body, "refName")
    if isinstance(number, int | str) and not isinstance(number, bool) and str(number).isdecimal():
        name = f"{project}~{number}" if len(str(number)) < 20 else None
    else:
        name = f"{project}~{branch}~{_text(change, 'id')}" if branch and _text(change, "id") else None
    if ref is None and branch is not None:
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
    if project is None or ref is None or name is None:
        raise BadInput("the line does not say which change of which project was merged")
    data = _data(project, ref, None, _commit(body, "newRev") or _commit(patchset, "revision"), _who(body, patchset))
    return Event(
        source=_source(project),
        id=f"change-merged:{name}",
        type="git.merge",
        subject=ref,
        time=when,
        data=data | {"change": str(number or name), "title": _text(change, "subject")},
    )


def _data(project: str, ref: str, before: str | None, after: str | None, account: dict[str, Any]) -> dict[str, Any]:
    owner, _, name = project.rpartition("/")
    pusher = _text(account, "username") or _text(account, "name")
    return refs.data("", ref, before, after, pusher) | {"repository": name, "owner": owner, "url": None}


def _who(body: dict[str, Any], patchset: dict[str, Any]) -> dict[str, Any]:
    for approval in _submissions(patchset):
        return _mapping(approval, "by")
    return _mapping(body, "submitter")


def _submitted(patchset: dict[str, Any]) -> float | None:
    for approval in _submissions(patchset):
        if (when := moment(approval.get("grantedOn"))) is not None:
            return when
    return None


def _submissions(patchset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    approvals = patchset.get("approvals")
    for approval in approvals if isinstance(approvals, list) else ():
        if isinstance(approval, dict) and approval.get("type") == "SUBM":
            yield approval


def _source(project: str | None) -> str:
    return f"gerrit:{project}" if project else "gerrit"


def _project(body: dict[str, Any]) -> str | None:
    return (
        _text(_mapping(body, "change"), "project")
        or _text(_mapping(body, "refUpdate"), "project")
        or _text(body, "project")
        or _text(_mapping(body, "project"), "name")
        or _text(body, "projectName")
    )


def _mapping(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _text(body: dict[str, Any], key: str) -> str | None:
    """Text that can be part of an event's name; None for anything else."""
    value = body.get(key)
    return value if isinstance(value, str) and value and len(value) <= _TEXT and value.isprintable() else None


def _commit(body: dict[str, Any], key: str) -> str | None:
    value = _text(body, key)
    return value if value and _OBJECT.fullmatch(value) and not _ZEROS.fullmatch(value) else None
