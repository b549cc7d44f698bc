"""A repository's refs: what may be asked for them, what it answers, and the events that a change of them is. Pure."""

from __future__ import annotations

import fnmatch
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imageflow.model import Event
from imageflow.triggers import git_source

SCHEMES = ("https", "http", "ssh", "git", "file")
_LINE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\t(refs/[^\x00-\x20\x7f]{1,1000})", re.ASCII)
_SHORT = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]*:(?![:/]/)[^\s:-]\S*", re.ASCII)  # user@host:path
_HOST = re.compile(r"[A-Za-z0-9:][\w.:%-]*|", re.ASCII)
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/@]*@")
_SURROGATES = re.compile("[\ud800-\udfff]")


def unusable(url: str) -> str | None:
    """Why git must not be given this URL; None when it may. Never says what the URL is: there may be a secret in it."""
    if not url or len(url) > 1500 or not url.isprintable() or " " in url or url.startswith("-"):
        return "it is no URL"
    if "://" not in url:
        if url.startswith("/") or _SHORT.fullmatch(url):
            return None
        return "it is no URL: one of https://…, ssh://…, git://…, file:///…, /PATH, USER@HOST:PATH"
    try:
        parts = urllib.parse.urlsplit(url)
        host, password = parts.hostname or "", parts.password
    except ValueError:
        return "it is no URL"
    if parts.scheme not in SCHEMES:
        return f"only {', '.join(SCHEMES)} are possible"
    if password is not None or (parts.scheme.startswith("http") and "@" in parts.netloc):
        return "it holds credentials; give them to git's credential helper, or to ~/.netrc"
    if not _HOST.fullmatch(host) or bool(host) == (parts.scheme == "file") or parts.netloc.startswith("-"):
        return "its host is not usable"
    return None


def parse(text: str) -> dict[str, str]:
    """What `git ls-remote` printed: ref -> object id; whatever is no ref is left out, so are peeled tags."""
    found = {}
    for line in text.split("\n"):
        match = _LINE.fullmatch(line)
        if match and not match[2].endswith("^{}") and not _SURROGATES.search(match[2]):
            found[match[2]] = match[1]
    return found


def whole(ref: str) -> str:
    """The pattern over whole ref names that a recipe's ref is: `main` is refs/heads/main."""
    return ref if ref.startswith("refs/") or any(mark in ref for mark in "*?[") else f"refs/heads/{ref}"


def matches(ref: str, patterns: Iterable[str]) -> bool:
    """Whether one of the whole names or globs is this ref; `*` matches `/`, too."""
    return any(ref == pattern or fnmatch.fnmatchcase(ref, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a repository's refs were.

    The generation grows with every change: a ref that goes back and forth has a new event each time, and two
    who see the same change make the same one of it.
    """

    patterns: tuple[str, ...] = ()  # what was looked at: a ref that was not is new to us, not to the repository
    refs: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0

    def text(self) -> str:
        """For an observation."""
        return json.dumps(
            {"generation": self.generation, "patterns": self.patterns, "refs": dict(sorted(self.refs.items()))}
        )

    @classmethod
    def of(cls, text: str) -> Seen | None:
        """None for what is no such text."""
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
    """The type of the event that a ref changed."""
    if after is None:
        return "git.delete"
    return "git.tag" if ref.startswith("refs/tags/") else "git.push"


def data(url: str, ref: str, before: str | None, after: str | None, pusher: str | None = None) -> dict[str, Any]:
    """The data of such an event; `url` is without user name and password."""
    path = url.partition("://")[2].partition("/")[2] if "://" in url else url.rpartition(":")[2]
    *owner, name = [part for part in path.split("/") if part] or [""]
    local = url.startswith(("/", "file:"))
    return {
        "repository": name.removesuffix(".git"),
        "owner": "" if local else "/".join(owner),
        "ref": ref,
        "branch": ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else None,
        "tag": ref.removeprefix("refs/tags/") if ref.startswith("refs/tags/") else None,
        "before": before,
        "after": after,
        "pusher": pusher,
        "url": url,
    }
