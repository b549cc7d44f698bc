"""What is no longer needed and old enough to go: ended builds with all that is theirs, and what lost its owner."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from imageflow.model import ENDED, BuildState, VersionState
from imageflow.persistence.tables import (
    builds,
    publications,
    rebuilds,
    recipe_images,
    recipes,
    requests,
    resources,
    versions,
)

_ENDED = [state.value for state in ENDED]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 500  # values in one IN (…)
_over = (
    versions.c.state == VersionState.DELETED,
    ~sa.exists().where(publications.c.version_id == versions.c.id),
    ~sa.exists().where(builds.c.id == versions.c.build_id),
)


def ended_before(conn: sa.Connection, most: int) -> float | None:
    """The moment before which ended builds are more than `most`; None: they are not."""
    query = sa.select(builds.c.ended).where(builds.c.ended.is_not(None)).order_by(builds.c.ended.desc())
    return conn.execute(query.offset(most).limit(1)).scalar()


def builds_to_forget(conn: sa.Connection, before: float, limit: int, among: Sequence[str] | None = None) -> list[str]:
    """Ids of builds that ended before or at that moment and that nothing needs, the oldest first.

    Needed are those of versions that exist (whose lineage they are), those with something of theirs left, those that
    a request names, the newest build of each image, and its newest successful one.
    """
    later = builds.alias("later")
    newer = sa.exists().where(
        later.c.image == builds.c.image,
        later.c.seq > builds.c.seq,
        sa.or_(builds.c.state != BuildState.SUCCEEDED.value, later.c.state == BuildState.SUCCEEDED.value),
    )
    exists = sa.exists().where(versions.c.build_id == builds.c.id, versions.c.state != VersionState.DELETED)
    published = sa.exists().where(versions.c.build_id == builds.c.id, publications.c.version_id == versions.c.id)
    left = sa.exists().where(resources.c.build_id == builds.c.id, resources.c.closed.is_(None))
    requested = sa.exists().where(requests.c.build_id == builds.c.id)
    registered = sa.exists().where(recipe_images.c.image == builds.c.image)
    query = (
        sa.select(builds.c.id)
        .where(builds.c.ended <= before, builds.c.state.in_(_ENDED))
        .where(~exists, ~published, ~left, ~requested, sa.or_(newer, ~registered))
        .order_by(builds.c.ended)
        .limit(limit)
    )
    return list(conn.scalars(query if among is None else query.where(builds.c.id.in_(among))))


def forget_builds(conn: sa.Connection, ids: list[str]) -> int:
    """Remove these builds, if they are ended, with their steps and the closed rows of their ledger; -> how many."""
    conn.execute(sa.delete(resources).where(resources.c.build_id.in_(ids), resources.c.closed.is_not(None)))
    return conn.execute(sa.delete(builds).where(builds.c.id.in_(ids), builds.c.state.in_(_ENDED))).rowcount


def known(conn: sa.Connection, ids: list[str]) -> set[str]:
    """Those of these builds that are stored."""
    found: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        found |= set(conn.scalars(sa.select(builds.c.id).where(builds.c.id.in_(ids[start : start + _CHUNK]))))
    return found


def going_on(conn: sa.Connection) -> set[str]:
    """Ids of the builds that have not ended."""
    active = [state.value for state in BuildState if not state.ended]
    return set(conn.scalars(sa.select(builds.c.id).where(builds.c.state.in_(active))))


def old_versions(conn: sa.Connection, before: float) -> list[int]:
    """Ids of versions that were deleted before that moment, are nowhere published, and whose builds are gone.

    Those that a stored build was made from stay: whether their content is still the newest is asked by it.
    """
    query = sa.select(versions.c.id, versions.c.digest).where(*_over, versions.c.since < before)
    old: dict[str, list[int]] = {}
    for row in conn.execute(query):
        old.setdefault(row.digest, []).append(row.id)
    if not old:
        return []
    made = sa.select(sa.cast(builds.c.pins, sa.Text)).where(builds.c.state == BuildState.SUCCEEDED.value)
    for pins in conn.execute(made.execution_options(yield_per=100)).scalars():
        for digest in _DIGEST.findall(pins):
            old.pop(digest, None)
    return [id for ids in old.values() for id in ids]


def forget_versions(conn: sa.Connection, ids: Sequence[int]) -> None:
    """Remove those of these versions for which that is still so."""
    conn.execute(sa.delete(versions).where(versions.c.id.in_(ids), *_over))


def old_recipes(conn: sa.Connection, before: float) -> list[int]:
    """Ids of old versions of recipes, and of removed recipes, unless an unfinished build has their folder."""
    later = recipes.alias("later")
    superseded = sa.exists().where(
        later.c.name == recipes.c.name, later.c.version > recipes.c.version, later.c.created < before
    )
    gone = ~sa.exists().where(later.c.name == recipes.c.name, later.c.current)
    query = sa.select(recipes.c.id, recipes.c.path).where(
        recipes.c.current.is_(False), recipes.c.created < before, sa.or_(superseded, gone)
    )
    used = tuple(conn.scalars(sa.select(builds.c.folder).where(builds.c.state.not_in(_ENDED)).distinct()))
    return [row.id for row in conn.execute(query) if not row.path.startswith(used)]


def forget_recipes(conn: sa.Connection, ids: Sequence[int]) -> None:
    """Remove these versions of recipes."""
    conn.execute(sa.delete(recipes).where(recipes.c.id.in_(ids), recipes.c.current.is_(False)))


def forget_rebuilds(conn: sa.Connection, before: float) -> int:
    """Remove when images were last rebuilt that are in no recipe any more; -> how many."""
    home = sa.exists().where(recipe_images.c.image == rebuilds.c.image)
    old = (rebuilds.c.open.is_(False), rebuilds.c.asked < before)
    return conn.execute(sa.delete(rebuilds).where(*old, ~home)).rowcount


def old_resources(conn: sa.Connection, before: float) -> list[int]:
    """Ids of closed rows of the ledger whose builds are gone."""
    built = sa.exists().where(builds.c.id == resources.c.build_id)
    return list(conn.scalars(sa.select(resources.c.id).where(resources.c.closed < before, ~built)))


def forget_resources(conn: sa.Connection, ids: Sequence[int]) -> None:
    """Remove those of these rows that are still closed."""
    conn.execute(sa.delete(resources).where(resources.c.id.in_(ids), resources.c.closed.is_not(None)))
