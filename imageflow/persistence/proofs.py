"""Proofs of signed deliveries whose events are gone: the same signature again is not news for much longer."""

from __future__ import annotations

import json

import sqlalchemy as sa

from imageflow.persistence import observations

PREFIX = "proof:"
_AGAIN = "again:"


def again(digest: str) -> str:
    """What an event has in place of its proof when another delivery had that proof before; `digest`: the event's."""
    return f"{_AGAIN}{digest}"[:64]


def is_again(proof: str | None) -> bool:
    """Whether this is in the place of a proof that came before."""
    return proof is not None and proof.startswith(_AGAIN)


def remember(conn: sa.Connection, proof: str, digest: str, seq: int, now: float) -> None:
    """Keep the proof of an event that is about to be removed."""
    observations.see(conn, f"{PREFIX}{proof}", json.dumps({"digest": digest, "seq": seq}), now)


def remembered(conn: sa.Connection, proof: str) -> tuple[str, int] | None:
    """Digest and seq of the removed event that had this proof."""
    found = observations.seen(conn, f"{PREFIX}{proof}")
    if found is None:
        return None
    known = json.loads(found[0])
    return known["digest"], known["seq"]
