"""The image versions: which exist, their state, which builds use them, which may be deleted."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from imageflow.compute import FORMATS
from imageflow.config import Config
from imageflow.errors import Conflict, Corrupt, ImageflowError, NotFound, Refused
from imageflow.host.control import Control
from imageflow.model import Json, ResourceKind, Version, VersionState
from imageflow.persistence import builds, ledger, outbox, publications, requests, versions
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.recipe import ImageRecipe
from imageflow.stores import ImageRef, Store

LOG = logging.getLogger(__name__)
_LATER = (
    "the version is deleted nevertheless: 'imageflow serve' or 'imageflow resource reap' removes what is left of it"
)


class Catalogue:
    """The versions known to the database, in the store that holds them."""

    def __init__(self, config: Config, database: Database, store: Store) -> None:
        self._config = config
        self._database = database
        self._store = store

    def versions(self, image: str | None = None) -> list[Version]:
        """Newest first; deleted ones are not shown."""
        with self._database.read() as conn:
            return versions.select(conn, image=image)

    def newest(self) -> list[Version]:
        """The newest version of each image that is whole."""
        with self._database.read() as conn:
            return versions.newest(conn)

    def version(self, ref: str) -> Version:
        """IMAGE (the newest), IMAGE@DIGEST or DIGEST; a digest by any unique prefix."""
        with self._database.read() as conn:
            return self.located(versions.get(conn, ref))

    def made_by(self, build_id: str) -> Version | None:
        """The version that a build made."""
        with self._database.read() as conn:
            version = versions.of(conn, build_id)
        return version and self.located(version)

    def base(self, image: str) -> str:
        """The digest of an image's newest version, to base another image on; raises NotFound, Refused."""
        with self._database.read() as conn:
            found = versions.select(conn, image, limit=1)
        if not found:
            raise NotFound(f"there is no image {image!r}", hint="'imageflow image list' shows the images")
        if found[0].state == VersionState.MISSING:
            raise _missing(found[0])
        ref = self.ref(found[0])
        if not any(artifact.format in FORMATS for artifact in ref.artifacts):
            raise Refused(
                f"image {image!r} is not a disk that a machine could boot from",
                hint=f"add one of {', '.join(FORMATS)} to its outputs",
            )
        return ref.digest

    def located(self, version: Version) -> Version:
        """With its current path, as seen from here: a store can be moved, or mounted elsewhere."""
        if version.store != self._store.name:
            return version
        found = self._store.find(version.digest, version.build_id)
        return version if found is None else replace(version, path=found.path)

    def ref(self, version: Version) -> ImageRef:
        """A version as its store knows it; raises NotFound."""
        self._check_store(version)
        found = self._store.find(version.digest, version.build_id)
        if found is None and version.state == VersionState.MISSING:
            raise _missing(version)
        if found is None:
            wrong = (
                "is corrupt"
                if version.state == VersionState.CORRUPT
                else f"is not whole in the store '{version.store}'"
            )
            raise NotFound(
                f"{version.image}@{version.digest[:12]} {wrong}",
                hint=_way_out(version),
            )
        return found

    def _check_store(self, version: Version) -> None:
        """Raise NotFound if the version is in another store than the configured one."""
        if version.store != self._store.name:
            raise NotFound(
                f"{version.image}@{version.digest[:12]} is in the store '{version.store}', and [store] driver is '{self._store.name}'",
                hint=f"build it again, or ask with [store] driver = {version.store}",
            )

    def verify(self, ref: str, control: Control, progress: Callable[[float], None] = lambda _: None) -> Version:
        """Read every byte of a version again; a corrupt or missing one is never reused from then on."""
        version = self.version(ref)
        self._check_store(version)
        try:
            self._store.verify(version.digest, control, progress)
        except (Corrupt, NotFound) as error:
            state = VersionState.CORRUPT if isinstance(error, Corrupt) else VersionState.MISSING
            why = error.message

            def lose(conn: Connection) -> None:
                for same in versions.holding(conn, version.store, version.digest):
                    self._lose(conn, same, state, why)

            self._database.transact(lose, patience=REQUEST)
            error.hint = error.hint or _way_out(version)
            raise
        if version.state != VersionState.STORED:

            def mend(conn: Connection) -> None:
                for same in versions.holding(conn, version.store, version.digest):
                    self._restore(conn, same)

            self._database.transact(mend, patience=REQUEST)
        return self.version(version.digest)

    def look_for(self, suspects: Iterable[Version], why: str) -> list[Version]:
        """Look versions up in the store; -> those it no longer has, now marked missing: they were removed from outside.

        `why`: the recorded reason. Raises Unavailable when the store does not answer.
        """
        gone = []
        for version in suspects:
            if self._store.find(version.digest, version.build_id) is not None:
                continue
            lose = functools.partial(self._lose, version=version, state=VersionState.MISSING, why=why)
            if self._database.transact(lose):
                LOG.warning(
                    "%s@%s of build %s is missing: %s", version.image, version.digest[:12], version.build_id, why
                )
                gone.append(version)
        return gone

    def _lose(self, conn: Connection, version: Version, state: VersionState, why: str) -> bool:
        """Mark a version missing or corrupt: the next request rebuilds it. -> Whether its state changed."""
        if not versions.mark(conn, version.id, state, why):
            return False
        builds.drop_claim(conn, version.build_id)
        if state == VersionState.MISSING:
            self._announce(conn, "missing", replace(version, state=state, why=why))
        return True

    def _restore(self, conn: Connection, version: Version) -> None:
        """A missing or corrupt version is sound again, and holds its key unless another build does."""
        if versions.mark(conn, version.id, VersionState.STORED):
            builds.reclaim(conn, version.build_id)
            if version.state == VersionState.MISSING:
                self._announce(conn, "restore", replace(version, why=None))

    def _announce(self, conn: Connection, what: str, version: Version) -> None:
        outbox.announce_image(conn, self._config.announce.targets, what, version)

    def export(self, ref: str, to: Path, artifact: str | None, control: Control) -> Path:
        """Copy an artifact (the primary one by default) out of the store."""
        return self._store.copy_out(self.ref(self.version(ref)), artifact, to, control)

    def delete(self, ref: str) -> Version:
        """Delete a version; raises Conflict while a build uses it, or a request holds it."""
        version = self.version(ref)
        self.remove(version)
        return version

    def remove(self, version: Version) -> None:
        """As `delete`, for a version that is known."""
        self._check_store(version)
        name = f"{version.store}:{version.digest}"

        def forget(conn: Connection) -> None:
            versions.mark(conn, version.id, VersionState.DELETED)  # first: who wants to hold it now waits for us
            named = f"{version.image}@{version.digest[:12]}"
            if users := builds.using(conn, version.digest):
                raise Conflict(f"{named} is used by build {users[0]}", hint="wait for it to end, or abort it")
            if (held := requests.holding(conn, version.build_id)) is not None:
                raise Conflict(
                    f"{named} is held by the request {held.name!r} of project {held.project!r}",
                    hint=f"whoever uses it deletes the request, or 'imageflow request delete {held.name}' does",
                )
            publications.unwant(conn, version.id)
            builds.drop_claim(conn, version.build_id)
            self._announce(conn, "delete", version)
            ledger.open(conn, version.build_id, ResourceKind.PUBLICATION, name, self._config.host, time.time())

        def forgotten(conn: Connection) -> None:
            ledger.close(conn, version.build_id, ResourceKind.PUBLICATION, name, self._config.host, time.time())

        self._database.transact(forget, patience=REQUEST)
        try:
            self._store.delete(version.digest, version.build_id)  # if killed before this, the janitor does it
        except ImageflowError as error:
            error.hint = "; ".join(filter(None, [error.hint, _LATER]))
            raise
        self._database.transact(forgotten, patience=REQUEST)

    def retire(self, image: str, recipe: Json) -> list[Version]:
        """Delete the versions of an image past the recipe's `publish.keep`, except those that builds use and requests hold.

        Raises Unavailable, and at the end Refused, for what the janitor has to remove later.
        """
        keep = ImageRecipe.from_json(recipe).publish.keep
        if not keep:
            return []
        retired, kept, refused = [], 0, None
        for version in self.versions(image):
            if version.store != self._store.name:
                continue
            if kept < keep:
                kept += version.state == VersionState.STORED
                continue
            try:
                self.remove(version)
            except Conflict:
                continue  # the next build of the image tries again
            except Refused as error:
                refused = error
            retired.append(version)
        if refused is not None:
            raise refused
        return retired


def _way_out(version: Version) -> str:
    return f"build it again, or 'imageflow image delete {version.digest[:12]}'"


def _missing(version: Version) -> NotFound:
    name = f"{version.image}@{version.digest[:12]}"
    return NotFound(f"{name} is missing: {version.why}", hint=f"build it again, or 'imageflow image verify {name}'")
