"""What is written when a build comes to rest: each of these is the inside of one transaction, all of it or nothing."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection

from imageflow import targets as places
from imageflow.matching import published
from imageflow.model import Artifact, Build, BuildState, Json, ResourceKind, Version, Wish
from imageflow.persistence import builds, events, ledger, outbox, publications, versions
from imageflow.service import Service


def succeeded(conn: Connection, service: Service, build: Build, publication: Json, now: float) -> None:
    """The build's version is there; whoever stands on it, and whoever listens, is told."""
    targets, host = service.config.announce.targets, service.config.host
    builds.change(
        conn,
        build.id,
        to=BuildState.SUCCEEDED,
        ended=now,
        digest=publication["digest"],
        step=None,
        error=None,
        hint=None,
    )
    version = versions.add(conn, _version(build, publication, now))
    publications.want(conn, version.id, places.names(service.config))
    outbox.announce_build(conn, targets, "end", build)
    outbox.announce_image(conn, targets, "publish", version)
    events.add(conn, [published(version)], listener="imageflow", now=now)
    owned = f"{publication['store']}:{publication['digest']}"
    ledger.close(conn, build.id, ResourceKind.PUBLICATION, owned, host, now)
    builds.take_claim(conn, build)
    service.flows.delete(conn, build.flow)


def reverted(conn: Connection, service: Service, build: Build, left: str) -> None:
    """Everything the build made is removed, except what is `left` for the janitor."""
    assert build.wish is not None
    error = build.error if build.wish is Wish.REVERT else None
    if left:
        error = f"{error}; left for the janitor: {left}" if error else f"left for the janitor: {left}"
    values: dict[str, Any] = {"error": error} if error else {}
    builds.change(conn, build.id, to=build.wish.outcome, ended=time.time(), paused=None, **values)
    builds.drop_claim(conn, build.id)
    outbox.announce_build(conn, service.config.announce.targets, "error", build)
    service.flows.delete(conn, build.flow)


def paused(conn: Connection, service: Service, build_id: str, *, unwished: bool, **why: str | None) -> bool:
    """A step failed; `why`: step, error, hint. -> False when it is to be `unwished` and was asked to end meanwhile."""
    rest: dict[str, Any] = {"paused": time.time(), "deadline": None, **why}
    if not builds.change(conn, build_id, BuildState.PAUSED, unwished=unwished, **rest):
        return False
    outbox.announce_build(conn, service.config.announce.targets, "pause", builds.get(conn, build_id))
    return True


def _version(build: Build, publication: Json, now: float) -> Version:
    return Version(
        id=0,
        image=str(publication.get("image") or build.image),
        build_id=build.id,
        key=build.key,
        digest=publication["digest"],
        created=now,
        store=publication["store"],
        path=publication["path"],
        artifacts=tuple(Artifact(**artifact) for artifact in publication["artifacts"]),
        properties=publication.get("properties") or {},
        packages=publication.get("packages"),
        content=publication.get("content"),
    )
