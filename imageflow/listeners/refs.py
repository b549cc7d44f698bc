"""A repository's refs: which to query, the answer, and the events of their changes. Pure."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imageflow.events.triggers import git_source
from imageflow.fetch.git import named
from imageflow.model import Event

_LINE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\t(refs/[^\x00-\x20\x7f]{1,1000})", re.ASCII)
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@]*@")
_SURROGATES = re.compile("[\ud800-\udfff]")


def parse(text: str) -> dict[str, str]:
    """The output of `git ls-remote`: ref -> object id; lines that are not refs are left out, and so are peeled tags."""
    found = {}
    for line in text.split("\n"):
        match = _LINE.fullmatch(line)
        if match and not match[2].endswith("^{}") and not _SURROGATES.search(match[2]):
            found[match[2]] = match[1]
    return found


def matches(ref: str, patterns: Iterable[str]) -> bool:
    """Whether one of the full names or globs matches this ref; `*` also matches `/`."""
    return any(ref == pattern or fnmatch.fnmatchcase(ref, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last seen refs of a repository.

    The generation grows with every change: a ref that goes back and forth has a new event each time, and two
    pollers that see the same change make the same event of it.
    """

    patterns: tuple[str, ...] = ()  # what was polled: a ref outside them is new to us, not to the repository
    refs: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0

    def text(self) -> str:
        """Serialised, for an observation."""
        return json.dumps(
            {"generation": self.generation, "patterns": self.patterns, "refs": dict(sorted(self.refs.items()))}
        )

    @classmethod
    def of(cls, text: str) -> Seen | None:
        """None for an invalid text."""
        try:
            raw = json.loads(text)
            refs = {str(ref): str(commit) for ref, commit in raw["refs"].items()}
            return cls(tuple(map(str, raw["patterns"])), refs, int(raw["generation"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def changes(
    url: str, before: Seen | None, found: Mapping[str, str], patterns: Iterable[str], now: float
) -> tuple[list[Event], Seen]:
    """The events of what changed since `before`, and what to remember. The first time there are none."""
    wanted = tuple(sorted(set(patterns)))
    refs = {ref: commit for ref, commit in found.items() if matches(ref, wanted)}
    if before is None:
        return [], Seen(wanted, refs)
    moved: list[tuple[str, str | None, str | None]] = []
    for ref in sorted(refs.keys() | before.refs.keys()):
        old, new = before.refs.get(ref), refs.get(ref)
        known = matches(ref, before.patterns) and matches(ref, wanted)
        if old != new and known:
            moved.append((ref, old, new))
    generation = before.generation + bool(moved)
    events = [_event(url, ref, old, new, generation, now) for ref, old, new in moved]
    return events, Seen(wanted, refs, generation)


def _event(url: str, ref: str, old: str | None, new: str | None, generation: int, now: float) -> Event:
    return Event(
        source=git_source(url),
        id=f"{ref}@{old or '-'}..{new or '-'}#{generation}",
        type=type_of(ref, new),
        subject=ref,
        time=now,
        data=data(_USER.sub(r"\1", url), ref, old, new),
    )


def type_of(ref: str, after: str | None) -> str:
    """The type of the event of a changed ref."""
    if after is None:
        return "git.delete"
    return "git.tag" if ref.startswith("refs/tags/") else "git.push"


def data(url: str, ref: str, before: str | None, after: str | None, pusher: str | None = None) -> dict[str, Any]:
    """The data of such an event; `url` has no user name and password."""
    owner, name = named(url)
    return {
        "repository": name,
        "owner": owner,
        "ref": ref,
        "branch": ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else None,
        "tag": ref.removeprefix("refs/tags/") if ref.startswith("refs/tags/") else None,
        "before": before,
        "after": after,
        "pusher": pusher,
        "url": url,
    }
