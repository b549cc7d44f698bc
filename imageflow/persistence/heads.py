"""What is known of refs beyond the events that told of them: where each is, and which commits it has left."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from imageflow.persistence import observations

PREFIX = "head:"
_MANY = 200  # commits that are remembered for each ref


@dataclass(frozen=True, slots=True)
class Head:
    """One ref."""

    now: str | None  # None: it is gone
    left: tuple[str, ...] = ()  # commits that it was at before, the last one last

    def at(self, commit: str | None, *also: str | None) -> Head:
        """The ref after a move to a commit; it has left `also`, too."""
        gone = [one for one in (*self.left, *also, self.now) if one is not None and one != commit]
        return Head(commit, tuple(dict.fromkeys(reversed(gone)))[:_MANY][::-1])

    def without(self, commit: str) -> Head:
        """The ref where it is, which has left this commit long ago."""
        return self if commit in self.left else Head(self.now, (commit, *self.left)[-_MANY:])


def get(conn: sa.Connection, name: str, *, hold: bool = False) -> Head | None:
    """A ref, by a name that is unique among all repositories; None when nothing is known."""
    found = observations.seen(conn, f"{PREFIX}{name}", hold=hold)
    if found is None:
        return None
    known = json.loads(found[0])
    return Head(known["now"], tuple(known["left"]))


def keep(conn: sa.Connection, name: str, head: Head, now: float) -> None:
    """Remember where a ref is."""
    observations.see(conn, f"{PREFIX}{name}", json.dumps({"now": head.now, "left": head.left}), now)
