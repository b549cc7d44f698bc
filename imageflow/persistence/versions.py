"""The versions of images: what is in which store, found by name or digest."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa

from imageflow.errors import NotFound
from imageflow.model import Artifact, Version, VersionState
from imageflow.persistence.tables import versions

_COLUMNS = [versions.c[f.name] for f in fields(Version)]
_HINT = "see 'imageflow image list'"
_CHUNK = 500  # values in one IN (…)
_PRESENT = (
    VersionState.STORED,
    VersionState.CORRUPT,
    VersionState.MISSING,
)  # an index finds these; "not deleted" would read every version that ever existed


def _version(row: sa.Row[Any]) -> Version:
    values = dict(row._mapping)
    values["artifacts"] = tuple(Artifact(**a) for a in values["artifacts"])
    return Version(**values)


def add(conn: sa.Connection, version: Version) -> Version:
    """Store a version (its `id` is ignored); -> it, with its id. May be repeated for the same build."""
    known = of(conn, version.build_id)
    if known is not None:
        return known
    values = {f.name: getattr(version, f.name) for f in fields(Version) if f.name != "id"}
    values["artifacts"] = [asdict(a) for a in version.artifacts]
    values["properties"] = dict(version.properties)
    result = conn.execute(sa.insert(versions).values(**values))
    assert result.inserted_primary_key is not None
    return replace(version, id=result.inserted_primary_key[0])


def of(conn: sa.Connection, build_id: str) -> Version | None:
    """The version that a build made."""
    row = conn.execute(sa.select(*_COLUMNS).where(versions.c.build_id == build_id)).first()
    return _version(row) if row else None


def made_by(conn: sa.Connection, build_ids: Iterable[str]) -> dict[str, Version]:
    """The versions that these builds made, by build."""
    ids = sorted(set(build_ids))
    found: dict[str, Version] = {}
    for start in range(0, len(ids), _CHUNK):
        query = sa.select(*_COLUMNS).where(versions.c.build_id.in_(ids[start : start + _CHUNK]))
        found |= {version.build_id: version for version in map(_version, conn.execute(query))}
    return found


def hold(conn: sa.Connection, build_id: str) -> bool:
    """Whether the version that a build made is whole; until the transaction ends nobody deletes it."""
    query = sa.select(versions.c.state).where(versions.c.build_id == build_id).with_for_update()
    return conn.scalar(query) == VersionState.STORED


def select(
    conn: sa.Connection, image: str | None = None, *, everything: bool = False, limit: int | None = None
) -> list[Version]:
    """Versions, newest first; deleted ones only with `everything`."""
    query = sa.select(*_COLUMNS).order_by(versions.c.id.desc())
    if image is not None:
        query = query.where(versions.c.image == image)
    if not everything:
        query = query.where(versions.c.state.in_(_PRESENT))
    if limit is not None:
        query = query.limit(limit)
    return [_version(row) for row in conn.execute(query)]


def get(conn: sa.Connection, ref: str) -> Version:
    """The version for IMAGE (its newest), IMAGE@DIGEST or DIGEST (or a digest prefix).

    A deleted version is not found; of several with the same digest the newest is returned. Raises NotFound.
    """
    image, at, digest = ref.rpartition("@")
    if not at:
        if newest := select(conn, ref, limit=1):
            return newest[0]
        digest = ref
    if not re.fullmatch(r"[0-9a-f]{4,64}", digest):
        raise NotFound(f"there is no image {ref!r}", hint=_HINT)
    query = sa.select(*_COLUMNS).where(
        versions.c.digest >= digest, versions.c.digest < digest + "g", versions.c.state.in_(_PRESENT)
    )
    if at:
        query = query.where(versions.c.image == image)
    found = [_version(row) for row in conn.execute(query.order_by(versions.c.id.desc()))]
    if not found:
        raise NotFound(f"there is no image {ref!r}", hint=_HINT)
    if len({v.digest for v in found}) > 1:
        raise NotFound(f"{ref!r} matches several image versions", hint="give more digits of the digest")
    return found[0]


def newest(conn: sa.Connection) -> list[Version]:
    """The newest version of each image that is stored, whole."""
    last = (
        sa.select(sa.func.max(versions.c.id)).where(versions.c.state == VersionState.STORED).group_by(versions.c.image)
    )
    query = sa.select(*_COLUMNS).where(versions.c.id.in_(last)).order_by(versions.c.id)
    return [_version(row) for row in conn.execute(query)]


def some(conn: sa.Connection, store: str, before: int | None, limit: int) -> list[Version]:
    """Up to `limit` versions that should be whole in this store, newest first, those with an id below `before`."""
    query = sa.select(*_COLUMNS).where(versions.c.store == store, versions.c.state == VersionState.STORED)
    if before is not None:
        query = query.where(versions.c.id < before)
    return [_version(row) for row in conn.execute(query.order_by(versions.c.id.desc()).limit(limit))]


def mark(conn: sa.Connection, id: int, state: VersionState, why: str | None = None) -> bool:
    """Set a version's state and reason; -> whether it existed in another state. Deleted is final."""
    there = (versions.c.id == id, versions.c.state.in_(_PRESENT), versions.c.state != state)
    values = {"state": state, "since": time.time(), "why": why}
    return conn.execute(sa.update(versions).where(*there).values(**values)).rowcount == 1


def holding(conn: sa.Connection, store: str, digest: str) -> list[Version]:
    """The versions, not deleted, in this store under this digest, newest first."""
    query = sa.select(*_COLUMNS).where(
        versions.c.digest == digest, versions.c.store == store, versions.c.state.in_(_PRESENT)
    )
    return [_version(row) for row in conn.execute(query.order_by(versions.c.id.desc()))]
