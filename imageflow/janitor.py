"""Compares the resource ledger with the world: removes what ended builds left, aborts what was paused too long."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from imageflow import fetch, process, resources, stages
from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.errors import Corrupt, ImageflowError, NotFound
from imageflow.guest import keys
from imageflow.model import BuildState, Resource, ResourceKind, Wish
from imageflow.persistence import builds, conductors, ledger, versions
from imageflow.persistence.database import Database
from imageflow.persistence.jobboard import SqlJobBoard
from imageflow.stores import Store

LOG = logging.getLogger(__name__)


class Janitor:
    """Does rounds; two janitors at once are fine, each removes only what is on its own machine."""

    def __init__(self, database: Database, config: Config, store: Store, board: SqlJobBoard, compute: Compute) -> None:
        self._compute = compute
        self._database = database
        self._config = config
        self._store = store
        self._board = board

    def round(self) -> list[tuple[Resource, str | None]]:
        """One round; -> what was to be removed, with None or the reason why it is still there.

        Raises ImageflowError when the store can't be tidied up, after all the rest: machines and layers may be elsewhere.
        """
        self._expire_paused()
        self._database.transact(conductors.forget_dead)
        found = self._reap()
        self._sweep()
        self._collect_layers()
        for path in self._store.tidy(self._alive(self._store)):
            LOG.info("removed %s: its build has ended", path)
        return found

    def _sweep(self) -> None:
        """Remove machines of ended builds that no ledger tells of: a worker asked for them while it was taken over."""
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
            for layer in self._compute.layers.collect(
                limits.max_age, limits.max_size * 2**30, self._alive(self._compute)
            ):
                LOG.info("removed layer %s (%s): unused, or there is no room for it", layer.key[:12], layer.title)
            fetch.collect(self._config, limits.max_age, limits.max_size * 2**30, keep=self._pinned())
            self._forget_install_keys()
        except (ImageflowError, OSError) as error:
            LOG.warning("layers can't be collected: %s", error)

    def _pinned(self) -> list[str]:
        """Every pin of the builds that have not ended: digests of downloads are among them, or at their ends."""
        active = [state for state in BuildState if not state.ended]
        with self._database.read() as conn:
            found = [builds.get(conn, build.id) for build in builds.select(conn, states=active, limit=1000)]
        return [str(pin).rpartition(":")[2] for build in found for pin in build.pins.values()]

    def _forget_install_keys(self) -> None:
        """A key that lets somebody into layers which are gone is of no use; a build that installs right now has it, too."""
        for folder in self._config.install_keys_dir.glob("*"):
            if time.time() - folder.stat().st_mtime > self._config.layers.max_age and not self._is_let_in(folder):
                resources.remove_tree(folder)

    def _is_let_in(self, folder: Path) -> bool:
        """By a layer that is there, whose key without the login is the folder's name."""
        try:
            login = keys.public(folder)
        except Corrupt:  # it opens nothing
            return False
        return login is not None and self._compute.layers.find(stages.installed(folder.name, login)) is not None

    def _expire_paused(self) -> None:
        limit = time.time() - self._config.builds.pause_ttl
        with self._database.read() as conn:
            stale = builds.paused_before(conn, limit)
        for build_id in stale:
            self._database.transact(functools.partial(self._give_up, build_id=build_id))

    def _give_up(self, conn: Connection, build_id: str) -> None:
        if builds.change(conn, build_id, to=BuildState.REVERTING, frm=(BuildState.PAUSED,), wish=Wish.ABORT):
            self._board.post_in(conn, build_id, {})
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
                resources.remove(resource.kind, resource.name)
        except (ImageflowError, OSError) as error:  # what can't be removed must not keep the rest
            why = str(error)
            if why != resource.error:
                LOG.warning("can't remove %s %s of build %s: %s", resource.kind, resource.name, resource.build_id, why)
                self._database.transact(lambda conn: ledger.failed(conn, resource.id, why))
            return why
        self._database.transact(lambda conn: ledger.close_id(conn, resource.id, time.time()))
        LOG.info("removed %s %s of build %s", resource.kind, resource.name, resource.build_id)
        return None

    def _unpublish(self, resource: Resource) -> None:
        """Remove an image that no version owns; what other builds made of the same bytes stays."""
        digest = resource.name.rpartition(":")[2]
        with self._database.read() as conn:
            version = versions.of(conn, resource.build_id)
        # A build may have published twice: who took over from a dead worker seldom makes the same bytes.
        if version is None or version.state == versions.DELETED or version.digest != digest:
            self._store.delete(digest, resource.build_id)

    def _alive(self, place: Store | Compute) -> Callable[[str], bool]:
        """Whose things stay: in a place that is shared, those of builds that nobody here knows, too."""
        return lambda build_id: self._is_active(build_id, unknown=place.shared)

    def _is_active(self, build_id: str, unknown: bool = False) -> bool:
        try:
            with self._database.read() as conn:
                build = builds.get(conn, build_id)
        except NotFound:
            return unknown
        return unknown if build.id != build_id else not build.state.ended  # `get` takes an id's beginning, too
