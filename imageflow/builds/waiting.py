"""What builds wait for, and who is silent about them: in words for users."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from imageflow.model import Build, Conductor
from imageflow.persistence import conductors, waiting


def told(conn: Connection, build: Build, host: str, lease: float) -> str | None:
    """What a build waits for, or who was to work on it and is silent; None when it is worked on, or needs no work."""
    place = waiting.places(conn, [build.id], host).get(build.id)
    if place is None or place.held:
        return None
    living = conductors.living(conn, host)
    if build.state in waiting.WORKED_ON and place.owner is not None:
        return f"{waiting.silence(place, lease)}; {_successor(living)}"
    if place.waits is not None:
        return f"room for its machine: {place.waits['why']}"
    if not living:
        return "a conductor: none is running ('imageflow serve')"
    before = waiting.before(conn, place)
    return f"its turn: {_slots(living)}; {before} before it" if before else f"its turn: {_slots(living)}"


def expected(conn: Connection, host: str) -> str | None:
    """What a build that is requested now would wait for first; None: nothing."""
    living = conductors.living(conn, host)
    if not living:
        return None  # `build create --wait` has a conductor of its own
    queued = waiting.queued(conn)
    return f"its turn: {_slots(living)}; {queued} before it" if queued else None


def _successor(living: Sequence[Conductor]) -> str:
    if living:
        return "another conductor takes it over"
    return "none is running that could take it over ('imageflow serve')"


def _slots(living: Sequence[Conductor]) -> str:
    running = sum(one.running for one in living)
    return f"{running} builds run on {len(living)} conductor{'s' if len(living) > 1 else ''}"
