"""Removes ended builds that nothing needs any more, their logs and consoles, and what lost its owner with them."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imageflow.builds.parts import Parts
from imageflow.errors import Conflict, ImageflowError
from imageflow.host.buildlog import log_path
from imageflow.model import Version, VersionState
from imageflow.persistence import answers, outbox, registry, requests, retention, tokens, versions
from imageflow.persistence.elapsed import Ages

LOG = logging.getLogger(__name__)
_FEW = 100  # rows removed in one transaction: others wait for no longer than some milliseconds
_TURN = 20.0  # seconds of one round: the rest is for the next one
_SELDOM = 3600.0  # seconds between two looks at what is many and seldom old
_YOUNG = 3600.0  # seconds; a log may be made before its build is seen here


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of one build in files of this host."""

    build_id: str
    used: float  # when it was last written
    size: int
    paths: tuple[Path, ...]


class Retention:
    """Does rounds, as the janitor that calls it."""

    def __init__(self, parts: Parts, ages: Ages) -> None:
        self._parts = parts
        self._database = parts.database
        self._config = parts.config
        self._limits = parts.config.builds
        self._ages = ages
        self._seldom = float("-inf")

    def round(self) -> int:
        """Remove what may go, in small transactions; -> the number of builds."""
        end = time.monotonic() + _TURN
        before = self._ages.before(self._limits.retention)
        with self._database.read() as conn:
            many = retention.ended_before(conn, self._limits.max_count)
        gone = 0
        while time.monotonic() < end:
            old = self._forget_some(before if many is None else max(before, many))
            gone += len(old)
            if not old:
                break
        if gone:
            LOG.info("removed %d ended builds: [builds] retention and max_count", gone)
        if time.monotonic() - self._seldom > min(_SELDOM, self._limits.retention / 2):
            self._round_of_the_rest(before)
            self._seldom = time.monotonic()
        return gone

    def _forget_some(self, before: float) -> list[str]:
        with self._database.read() as conn:  # looking takes longer than removing, and keeps no writer waiting
            found = retention.builds_to_forget(conn, before, _FEW)

        def forget(conn: Connection) -> list[str]:
            old = retention.builds_to_forget(conn, before, _FEW, found)
            retention.forget_builds(conn, old)
            return old

        old = self._database.transact(forget) if found else []
        for build_id in old:
            self._remove(self._kept(build_id))
        return old

    def _round_of_the_rest(self, before: float) -> None:
        announced = self._config.announce
        give_up, sent, dead = map(
            self._ages.stretched,
            (announced.give_up, announced.retention, announced.give_up + announced.dead_letters),
        )
        if given_up := self._database.transact(functools.partial(outbox.give_up, age=give_up)):
            LOG.error("gave up on %d announcements to targets that nobody sends to", given_up)
        self._database.transact(functools.partial(tokens.forget, before=self._ages.before(tokens.SHOWN)))
        for forget in (
            functools.partial(answers.forget, before=self._ages.before(answers.KEEP)),
            functools.partial(outbox.prune, age=sent, dead=dead),
            registry.unlearn_homeless,
            self._parts.flows.forget_orphans,
        ):
            self._repeat(forget)
        for find, remove in (
            (retention.old_versions, retention.forget_versions),
            (retention.old_recipes, retention.forget_recipes),
            (retention.old_resources, retention.forget_resources),
        ):
            with self._database.read() as conn:
                old = find(conn, before)
            for start in range(0, len(old), _FEW):
                self._database.transact(functools.partial(remove, ids=old[start : start + _FEW]))
        self._database.transact(functools.partial(retention.forget_rebuilds, before=before))
        self._delete_unheld()
        self._tidy_files()

    def _delete_unheld(self) -> None:
        """The versions of wants that nobody has asked for any more for long enough."""
        before = self._ages.before(self._config.catalog.unheld)
        with self._database.read() as conn:
            found = requests.no_longer_held(conn, before, _FEW)
        for build_id in found:
            with self._database.read() as conn:
                version = versions.of(conn, build_id)
                going_on = build_id in retention.going_on(conn)
            if not going_on and self._deleted(version):
                self._database.transact(functools.partial(requests.forget, build_id=build_id))
            else:  # its turn comes again after the others
                again = functools.partial(requests.note_unheld, build_id=build_id, now=time.time())
                self._database.transact(again)

    def _deleted(self, version: Version | None) -> bool:
        """Delete it; -> whether nothing is left of it."""
        if version is None or version.state is VersionState.DELETED:
            return True
        named = f"{version.image}@{version.digest[:12]}"
        try:
            self._parts.images.remove(version)
        except Conflict as error:
            LOG.info("%s, which no request holds, is kept: %s", named, error)
            return False
        except ImageflowError as error:
            LOG.warning("%s, which no request holds, can't be deleted: %s", named, error)
            return False
        LOG.info("deleted %s: no request holds it", named)
        return True

    def _repeat(self, forget: Callable[[Connection], Any]) -> None:
        end = time.monotonic() + _TURN
        while self._database.transact(forget) and time.monotonic() < end:
            pass

    # -- files of this host --------------------------------------------------------------------------

    def _tidy_files(self) -> None:
        """Logs and consoles of builds that are gone, and the oldest ones when all are too large together."""
        here = [self._kept(build_id) for build_id in self._ids()]
        with self._database.read() as conn:
            stored = retention.known(conn, [one.build_id for one in here])
            busy = retention.going_on(conn)
        young = time.time() - _YOUNG
        left = sum(one.size for one in here)
        most = self._limits.max_logs * 2**30
        for one in sorted(here, key=lambda one: one.used):
            if one.build_id in busy:
                continue
            gone = one.build_id not in stored and one.used < young
            if gone or left > most:
                self._remove(one)
                left -= one.size

    def _ids(self) -> set[str]:
        found: set[str] = set()
        with contextlib.suppress(FileNotFoundError):
            found |= {path.stem for path in self._config.logs_dir.iterdir() if path.suffix == ".log"}
        with contextlib.suppress(FileNotFoundError):
            found |= {path.name for path in self._config.records_dir.iterdir() if not path.name.startswith(".")}
        return found

    def _kept(self, build_id: str) -> _Kept:
        log, record = log_path(self._config.logs_dir, build_id), self._config.records_dir / build_id
        size, used = 0, 0.0
        for path in (log, *record.glob("*")):
            with contextlib.suppress(OSError):
                status = path.stat()
                size += status.st_blocks * 512
                used = max(used, status.st_mtime)
        return _Kept(build_id, used, size, (log, record))

    def _remove(self, kept: _Kept) -> None:
        log, record = kept.paths
        with contextlib.suppress(OSError):
            log.unlink(missing_ok=True)
        shutil.rmtree(record, ignore_errors=True)
