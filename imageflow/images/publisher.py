"""Publishes versions to one target, and removes them again, retrying however often and long that fails."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from sqlalchemy import Connection

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.errors import ClaimLost, DatabaseUnavailable, ImageflowError, NotFound, Unavailable
from imageflow.host import scratch
from imageflow.host.control import Control
from imageflow.images.catalogue import Catalogue
from imageflow.model import Artifact, Publication, PublicationWish, Version
from imageflow.persistence import builds, leases, publications, versions
from imageflow.persistence.database import Database
from imageflow.persistence.patience import RECORD
from imageflow.stores import About, ImageRef, Store, about
from imageflow.stores.targets import Target

LOG = logging.getLogger(__name__)
POLL = 0.5  # seconds between two looks for work
FIRST = 1.0  # seconds until the second attempt; later waits grow up to [publish] max_wait
JITTER = 0.5  # of each wait, so that the publishers of a target that is back do not all start at once
REFUSALS = 8  # a target may change its mind, or be repaired, that often; then an operator is needed
ELSEWHERE = 30.0  # seconds until a version that is not in this host's store is looked for in it again
TIDY = 300.0  # seconds between two looks for unfinished uploads


class Publisher:
    """The publications of one target; publishers in several processes share them, one publisher per publication.

    If killed anywhere, another publisher continues: a store finds what it already has, and removes unfinished uploads.
    """

    def __init__(self, config: Config, database: Database, source: Store, images: Catalogue, target: Target) -> None:
        """`source`: the store from which the versions of the catalogue `images` are read."""
        self._host = config.host
        self._database = database
        self._source = source
        self._images = images
        self._target = target
        self._store = target.store
        self._config = config.publish
        self._scratch = config.state_dir / "publishing"
        self._owner = leases.new_owner(config.host)
        self._elsewhere: dict[int, float] = {}  # versions that are not in this host's store, until when
        self._backoff = Backoff(
            FIRST, self._config.max_wait, jitter=JITTER
        )  # of the target: one failure counts for all publications
        self._tidied: float | None = None

    def run(self, stop: Flag) -> None:
        """Publish until `stop` is set; a publication in progress is left to other publishers, which restart it."""
        for path in scratch.sweep(self._scratch):
            LOG.info("removed %s: its process is gone", path)
        while not stop.is_set():
            try:
                wait = self._step(stop)
            except DatabaseUnavailable as error:
                wait = self._backoff.next()
                LOG.warning("target %s: %s; trying again in %.1f s", self._target.name, error, wait)
            stop.wait(wait)

    def _step(self, stop: Flag) -> float:
        """Do one thing, if there is one; -> seconds until the next step."""
        self._tidy_now_and_then()
        now = time.monotonic()
        self._elsewhere = {version: until for version, until in self._elsewhere.items() if until > now}
        name, without = self._target.name, list(self._elsewhere)
        with self._database.read() as conn:
            if not publications.due(conn, name, without):
                return POLL
        one = self._database.transact(
            lambda conn: publications.take(conn, name, self._owner, self._config.lease, without)
        )
        if one is None:
            return POLL
        with Hold(self._database, one, self._owner, self._config.lease, stop) as hold:
            return self._attempt(one, hold)

    # -- one publication -------------------------------------------------------------------------

    def _attempt(self, one: Publication, hold: Hold) -> float:
        """-> seconds until the next step; the result is recorded, unless another publisher holds it by now."""
        try:
            hold.check()
            self._look()
            if not self._store.shared and (one.owner is not None or one.wish == PublicationWish.REMOVED):
                self._tidy(
                    ours=one.build_id
                )  # remains of a publisher that died over it; in a cloud they are reused, or deleted
            if one.wish == PublicationWish.REMOVED:
                self._remove(one)
            else:
                self._publish(one, hold)
        except (DatabaseUnavailable, ClaimLost):
            if not hold.ours:
                return 0.0
            return self._put_back(one)
        except _NotHere as error:
            self._elsewhere[one.version_id] = time.monotonic() + ELSEWHERE
            return self._put_back(one, f"{error}")
        except Unavailable as error:
            return self._away(one, str(error))
        except (ImageflowError, OSError) as error:
            return self._refused(one, str(error))
        except Exception as error:  # a bug, ours or a library's: it must not end the other publications
            LOG.exception("target %s: %s", self._target.name, _named(one))
            return self._refused(one, f"{type(error).__name__}: a bug in imageflow, see its log")
        if self._backoff.failures:
            LOG.info("target %s is back", self._target.name)
            self._backoff.reset()
            self._record(lambda conn: publications.hasten(conn, self._target.name))
        return 0.0

    def _publish(self, one: Publication, hold: Hold) -> None:
        began = time.monotonic()
        control = Control(guard=hold.check)
        if (ref := self._found(one)) is None:
            version, about = self._known(one)
            with self._files(version, control) as files:
                try:
                    ref = self._store.add(files, build_id=one.build_id, control=control, about=about)
                except NotFound:
                    self._ref(version)  # deleted while it was read?
                    raise
        self._record(lambda conn: publications.stored(conn, one, self._owner, ref.path))
        took = time.monotonic() - began
        LOG.info("target %s: %s is published, %s, in %.1f s", self._target.name, _named(one), ref.path, took)

    def _found(self, one: Publication) -> ImageRef | None:
        """What the target has of it; checked before files are copied out of a cloud for a target that is down, or has them."""
        if self._store.find(one.digest, one.build_id) is None:
            return None
        return next((ref for ref in self._store.list(one.build_id) if ref.digest == one.digest), None)

    def _remove(self, one: Publication) -> None:
        self._store.delete(one.digest, one.build_id)
        self._record(lambda conn: publications.removed(conn, one, self._owner))
        LOG.info("target %s: %s is removed", self._target.name, _named(one))

    def _known(self, one: Publication) -> tuple[Version, About]:
        with self._database.read() as conn:
            version, build = versions.of(conn, one.build_id), builds.get(conn, one.build_id)
        assert version is not None, one  # its row refers to it
        return version, about(build, version.properties)

    def _ref(self, version: Version) -> ImageRef:
        try:
            return self._images.ref(version)
        except NotFound as error:
            raise _NotHere(f"host {self._host}: {error.message}") from error

    @contextlib.contextmanager
    def _files(self, version: Version, control: Control) -> Iterator[Sequence[tuple[Path, Artifact]]]:
        """The version's files: the store's own if they are on this host, otherwise copies."""
        ref = self._ref(version)
        there = [Path(ref.path).parent / artifact.name for artifact in ref.artifacts]
        if os.path.isabs(ref.path) and all(path.is_file() for path in there):
            yield list(zip(there, ref.artifacts, strict=True))
            return
        with scratch.folder(self._scratch) as folder:
            copies = []
            for artifact in ref.artifacts:
                try:
                    copy = self._source.copy_out(ref, artifact.name, folder / artifact.name, control)
                except NotFound:
                    self._ref(version)
                    raise
                copies.append((copy, artifact))
            yield copies

    # -- results ---------------------------------------------------------------------------------

    def _put_back(self, one: Publication, error: str | None = None) -> float:
        self._record(lambda conn: publications.put_back(conn, one, self._owner, error))
        return 0.0

    def _away(self, one: Publication, said: str) -> float:
        """The target, or the version's source, is down: this says little about the version."""
        pause = self._backoff.next()
        if self._backoff.failures == 1:
            LOG.warning("target %s waits: %s", self._target.name, said)
        wait = self._backoff.after(one.attempts + 1)
        self._record(lambda conn: publications.failed(conn, one, self._owner, said, wait, refused=False))
        return pause

    def _refused(self, one: Publication, said: str) -> float:
        self._backoff.reset()
        final = one.refused + 1 >= REFUSALS
        wait = self._backoff.after(one.refused + 3)
        tell = LOG.error if final else LOG.warning
        tell("target %s: %s%s: %s", self._target.name, _named(one), " is given up" if final else "", said)
        self._record(lambda conn: publications.failed(conn, one, self._owner, said, wait, refused=True, final=final))
        return 0.0

    def _record(self, work: Callable[[Connection], object]) -> None:
        self._database.transact(work, patience=RECORD)

    # -- the target as a whole -------------------------------------------------------------------

    def _look(self) -> None:
        with self._database.read() as conn:
            used = publications.used(conn, self._target.name)
        self._store.ready(used=used)

    def _tidy_now_and_then(self) -> None:
        now = time.monotonic()
        if self._tidied is None or now > self._tidied + TIDY:
            self._tidied = now
            try:
                self._look()
                self._tidy()
            except DatabaseUnavailable:
                raise
            except (ImageflowError, OSError) as error:
                LOG.info("target %s can't be tidied up: %s", self._target.name, error)

    def _tidy(self, ours: str = "") -> None:
        """`ours`: the build whose publication we hold, and of which we have uploaded nothing yet."""
        for what in self._store.tidy(lambda build_id: build_id != ours and self._stays(build_id)):
            LOG.info("target %s: removed %s: it would never be finished", self._target.name, what)

    def _stays(self, build_id: str) -> bool:
        """Whether another process may be at work on a build's unfinished upload; unknown processes may share a target."""
        with self._database.read() as conn:
            try:
                if not builds.get(conn, build_id).state.ended:
                    return True
            except NotFound:
                return True
            return publications.under_way(conn, self._target.name, build_id, self._owner)


class _NotHere(Exception):
    """The version is not in this host's store: another host may have it."""


class Hold:
    """The lease on a publication, extended while it is worked on."""

    def __init__(self, database: Database, one: Publication, owner: str, lease: float, stop: Flag) -> None:
        self._database = database
        self._one = one
        self._owner = owner
        self._lease = lease
        self._stop = stop
        self._until = time.monotonic() + lease * 0.9  # it was taken a moment ago
        self._wish: PublicationWish | None = one.wish
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {one.target}", daemon=True)

    @property
    def ours(self) -> bool:
        """Whether no other publisher can hold it."""
        return self._wish is not None and time.monotonic() < self._until

    def check(self) -> None:
        """Raise ClaimLost when the work has to stop: another publisher holds it, it is no longer wanted, or the service stops."""
        if not self.ours:
            raise ClaimLost(f"the lease on {_named(self._one)} in {self._one.target} is lost")
        if self._wish != self._one.wish or self._stop.is_set():
            raise ClaimLost(f"{_named(self._one)} in {self._one.target} is abandoned")

    def _keep(self) -> None:
        while not self._over.wait(self._lease / 5):
            began = time.monotonic()
            try:
                wish = self._database.transact(
                    lambda conn: publications.extend(conn, self._one, self._owner, self._lease)
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, the lease runs out by the clock
                LOG.warning("the lease on %s in %s: %s", _named(self._one), self._one.target, error)
                continue
            self._wish = wish
            if wish is None:
                return
            self._until = began + self._lease

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _named(one: Publication) -> str:
    return f"{one.image}@{one.digest[:12]}"
