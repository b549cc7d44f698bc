"""Whether an event moves a ref forward: only then do images get its commit as an input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from imageflow.events import commits
from imageflow.events.commits import Commit
from imageflow.events.own import own
from imageflow.fetch import git
from imageflow.model import Event
from imageflow.persistence import events, heads
from imageflow.persistence.heads import Head

_NO_COMMIT = "it does not say which commit: no input is known to have changed"
_LONG = 500  # characters of a pin's name, and of its value
_LOOKED = "git"  # this listener has asked the repository itself


@dataclass(frozen=True, slots=True)
class Move:
    """What an event means for a ref."""

    commit: Commit
    value: str | None = None  # what images are to be pinned to; None: their pin stays
    remark: str = ""  # what is not known, or why the pin stays
    head: Head | None = None  # what is to be remembered
    known: bool = False  # something was known of this ref
    gone: bool = False  # the ref was deleted: nothing is built from it any more


def weigh(conn: Connection, event: Event, *, hold: bool = False) -> Move | None:
    """Compare an event with what is known of its ref; None when it is about no commit. Changes nothing.

    `hold`: other processes wait with events about this ref until the transaction has ended.
    """
    commit = None if own(event.source) else commits.said(event)
    if commit is None:
        return None
    known = heads.get(conn, _name(event, commit), hold=hold)
    if event.type == "git.delete":
        return _deletion(conn, event, commit, known)
    if commit.after is None:
        return Move(commit, remark=_NO_COMMIT if event.type == "git.merge" else "")
    after = _whole(commit.after, known)
    why = None
    if known is None:
        if events.is_repeated(conn, event):
            return Move(commit, remark=_unsure("its signature was used before"))
        return Move(commit, after, _short(after), Head(None).at(after, commit.before))
    if not commits.same(after, known.now) and event.listener != _LOOKED:
        why = _why_not_forward(conn, event, commit, after, known)
    if why is not None:
        return Move(commit, known.now, _unsure(why, known), known.without(after), True)
    remark = _short(after) or _gap(commit, known, after)
    return Move(commit, after, remark, known.at(after, commit.before if commit.ordered else None), True)


def _deletion(conn: Connection, event: Event, commit: Commit, known: Head | None) -> Move:
    """A deletion that comes late says nothing about a ref that was made again since."""
    if known is None:
        return Move(commit, gone=not events.is_repeated(conn, event))
    left = not commits.same(commit.before, known.now) and any(commits.same(commit.before, one) for one in known.left)
    if left and known.now is not None:
        return Move(commit, known=True)
    return Move(commit, head=known.at(None), known=True, gone=not events.is_repeated(conn, event))


def keep(conn: Connection, event: Event, move: Move, now: float) -> None:
    """Remember where the ref is now."""
    if move.head is not None:
        heads.keep(conn, _name(event, move.commit), move.head, now)


def plain(text: str) -> str:
    """Text that every database can hold; of any other text its digest, which identifies it as well."""
    if len(text) <= _LONG and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def _name(event: Event, commit: Commit) -> str:
    """Of a ref: the same for a webhook and a poller, which may name the repository by other schemes."""
    return plain(f"{git.host(event.source) or event.source} {commit.name}")


def _whole(after: str, known: Head | None) -> str:
    """A commit that is told in short, in full where that is known."""
    told: Sequence[str | None] = () if known is None else (known.now, *known.left)
    return next((one for one in told if one and len(one) > len(after) and commits.same(one, after)), after)


def _why_not_forward(conn: Connection, event: Event, commit: Commit, after: str, known: Head) -> str | None:
    """Why it is not certain that the ref went from where it is known to be to this commit; None when it did."""
    repeated = events.is_repeated(conn, event)
    if commit.ordered and (commits.same(commit.before, known.now) or (commit.before is None and known.now is None)):
        return None
    if not commit.ordered and event.type != "git.merge":
        return "its signature was used before" if repeated else None  # by hand, or by a sender that tells no order
    if any(commits.same(after, one) for one in known.left):
        return f"the ref has left {_brief(after)} before"
    if commit.ordered and any(commits.same(commit.before, one) for one in known.left):
        return f"the ref has left {_brief(commit.before)}, where this began, before"
    return "its signature was used before" if repeated else None


def _unsure(why: str, known: Head | None = None) -> str:
    stays = f"; it stays at {_brief(known.now)}" if known and known.now else ""
    return f"whether it is the newest commit is not known, as {why}{stays}"


def _gap(commit: Commit, known: Head, after: str) -> str:
    if not commit.ordered or commits.same(after, known.now) or commits.same(commit.before, known.now):
        return ""
    if commit.before is None or known.now is None:
        return ""
    return f"what came between {_brief(known.now)} and {_brief(commit.before)} is not known"


def _short(after: str) -> str:
    if len(after) in (40, 64) or not commits.same(after, after + "0"):
        return ""
    return f"the commit is told in short, {_brief(after)}"


def _brief(commit: str | None) -> str:
    """A commit in a message: senders may call anything one."""
    shown = (commit or "")[:12]
    return shown if shown.isascii() and shown.isprintable() else "(unreadable)"
