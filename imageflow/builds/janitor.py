"""Compares the resource ledger with reality: removes what ended builds left, aborts builds paused too long."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from imageflow import fetch
from imageflow.builds import parking, transitions
from imageflow.builds.parts import Parts
from imageflow.builds.retention import Retention
from imageflow.compute import Compute
from imageflow.errors import Corrupt, ImageflowError, NotFound
from imageflow.guest import keys
from imageflow.host import process, removal
from imageflow.inputs import stages
from imageflow.model import BuildState, Resource, ResourceKind, VersionState
from imageflow.persistence import builds, conductors, ledger, versions
from imageflow.persistence.elapsed import Ages
from imageflow.stores import Store

LOG = logging.getLogger(__name__)
_SKEW = 60.0  # seconds; a later time was written before a clock was set back


class Janitor:
    """Does rounds; two janitors at once are fine: each removes only what is on its own machine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        self._database = parts.database
        self._store = parts.store
        self._compute = parts.compute
        self._ages = Ages(parts.database, parts.config.host)
        self._retention = Retention(parts, self._ages)

    def round(self) -> list[tuple[Resource, str | None]]:
        """One round; -> what was to be removed, each with None or the reason why it still exists.

        Raises ImageflowError when the store can't be tidied up, but only at the end: machines and layers may be elsewhere.
        """
        self._expire_paused()
        self._park_paused()
        self._renew()
        self._database.transact(conductors.forget_dead)
        found = self._reap()
        self._sweep()
        self._collect_layers()
        self._forget()
        self._shrink()
        for path in self._store.tidy(self._alive(self._store)):
            LOG.info("removed %s: its build has ended", path)
        return found

    def _renew(self) -> None:
        try:
            self._compute.renew()
        except (ImageflowError, OSError) as error:
            LOG.warning("the place of machines can't be renewed: %s", error)

    def _forget(self) -> None:
        try:
            self._retention.round()
        except (ImageflowError, OSError) as error:
            LOG.warning("ended builds can't be removed: %s", error)

    def _shrink(self) -> None:
        try:
            self._database.shrink()
        except ImageflowError as error:  # a full disk, or a long reader: the next round tries again
            LOG.warning("the database can't be made smaller: %s", error)

    def _sweep(self) -> None:
        """Remove machines of ended builds that are in no ledger: requested by a worker while its build was taken over."""
        if not self._compute.shared:
            return
        try:
            for name in self._compute.list():
                if not self._is_active(name.partition("-")[0], unknown=True):
                    self._compute.delete(name)
                    LOG.info("removed machine %s: its build has ended", name)
        except ImageflowError as error:
            LOG.warning("machines can't be swept: %s", error)

    def _collect_layers(self) -> None:
        limits = self._config.layers
        try:
            age = self._ages.stretched(limits.max_age)
            for layer in self._compute.layers.collect(age, limits.max_size * 2**30, self._alive(self._compute)):
                LOG.info("removed layer %s (%s): unused, or there is no room for it", layer.key[:12], layer.title)
            fetch.collect(self._config, age, limits.max_size * 2**30, keep=self._pinned())
            self._forget_install_keys(time.time() - age)
        except (ImageflowError, OSError) as error:
            LOG.warning("layers can't be collected: %s", error)

    def _pinned(self) -> list[str]:
        """Every pin of the unfinished builds; digests of downloads are pins, or the ends of pins."""
        active = [state for state in BuildState if not state.ended]
        with self._database.read() as conn:
            found = [builds.get(conn, build.id) for build in builds.select(conn, states=active, limit=1000)]
        return [str(pin).rpartition(":")[2] for build in found for pin in build.pins.values()]

    def _forget_install_keys(self, before: float) -> None:
        """Remove old keys that open no existing layer; a build that is installing right now has its own copy."""
        for folder in self._config.install_keys_dir.glob("*"):
            if folder.stat().st_mtime < before and not self._is_let_in(folder):
                removal.remove_tree(folder)

    def _is_let_in(self, folder: Path) -> bool:
        """Whether an existing layer accepts the folder's key; the folder's name is the layer's key without the login."""
        try:
            login = keys.public(folder)
        except Corrupt:  # it opens nothing
            return False
        return login is not None and self._compute.layers.find(stages.installed(folder.name, login)) is not None

    def _expire_paused(self) -> None:
        limit = self._ages.before(self._config.builds.pause_ttl)
        with self._database.read() as conn:
            stale = builds.paused_before(conn, limit)
        for build_id in stale:
            self._database.transact(functools.partial(self._give_up, build_id=build_id))

    def _park_paused(self) -> None:
        """Builds that stay paused leave the memory and processors of their machines to others."""
        limit = self._ages.before(self._config.builds.park_after)
        with self._database.read() as conn:
            found = builds.paused_before(conn, limit, or_after=time.time() + _SKEW)
        parking.put_away(self._parts, found)

    def _give_up(self, conn: Connection, build_id: str) -> None:
        if transitions.give_up(conn, self._parts, build_id):
            LOG.info("build %s was paused for longer than pause_ttl: it is aborted", build_id)

    def _reap(self) -> list[tuple[Resource, str | None]]:
        with self._database.read() as conn:
            dead = ledger.dead(conn, self._config.host)
        for build_id in sorted({resource.build_id for resource in dead}):
            process.end_leftovers(build_id)
        return [(resource, self._remove(resource)) for resource in dead]

    def _remove(self, resource: Resource) -> str | None:
        try:
            if resource.kind is ResourceKind.PUBLICATION:
                self._unpublish(resource)
            elif resource.kind is ResourceKind.MACHINE:
                self._compute.delete(resource.name)
            elif resource.kind is ResourceKind.LAYERS:
                self._compute.layers.release(resource.name)
            else:
                removal.remove(resource.kind, resource.name)
        except (ImageflowError, OSError) as error:  # one failed removal must not stop the rest
            why = str(error)
            if why != resource.error:
                LOG.warning("can't remove %s %s of build %s: %s", resource.kind, resource.name, resource.build_id, why)
                self._database.transact(lambda conn: ledger.failed(conn, resource.id, why))
            return why
        self._database.transact(lambda conn: ledger.close_id(conn, resource.id, time.time()))
        LOG.info("removed %s %s of build %s", resource.kind, resource.name, resource.build_id)
        return None

    def _unpublish(self, resource: Resource) -> None:
        """Remove an image that no version owns; the same bytes made by other builds stay."""
        digest = resource.name.rpartition(":")[2]
        with self._database.read() as conn:
            version = versions.of(conn, resource.build_id)
        # A build may have published twice: a takeover from a dead worker seldom makes the same bytes.
        if version is None or version.state == VersionState.DELETED or version.digest != digest:
            self._store.delete(digest, resource.build_id)

    def _alive(self, place: Store | Compute) -> Callable[[str], bool]:
        """Whose things stay: in a shared place, also those of builds that this database does not know."""
        return lambda build_id: self._is_active(build_id, unknown=place.shared)

    def _is_active(self, build_id: str, unknown: bool = False) -> bool:
        try:
            with self._database.read() as conn:
                build = builds.get(conn, build_id)
        except NotFound:
            return unknown
        return unknown if build.id != build_id else not build.state.ended  # `get` also takes the prefix of an id
