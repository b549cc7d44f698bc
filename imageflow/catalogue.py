"""The image versions: what is in the store, is it sound, who uses it, what may go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from imageflow import missing
from imageflow.compute import FORMATS
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import Conflict, Corrupt, ImageflowError, NotFound, Refused
from imageflow.model import Json, ResourceKind, Version
from imageflow.persistence import builds, ledger, outbox, publications, versions
from imageflow.persistence.database import Database
from imageflow.stores import ImageRef, Store

PATIENCE = 10.0  # seconds that a request waits for a database that is away
_LATER = (
    "the version is deleted all the same: 'imageflow serve' or 'imageflow resource reap' removes what is left of it"
)


class Catalogue:
    """The versions that the database knows, in the store that holds them."""

    def __init__(self, config: Config, database: Database, store: Store) -> None:
        self._config = config
        self._database = database
        self._store = store

    def versions(self, image: str | None = None) -> list[Version]:
        """Newest first; deleted ones are not shown."""
        with self._database.read() as conn:
            return versions.select(conn, image=image)

    def version(self, ref: str) -> Version:
        """IMAGE (the newest), IMAGE@DIGEST or DIGEST; a digest by any unique beginning."""
        with self._database.read() as conn:
            return self.located(versions.get(conn, ref))

    def made_by(self, build_id: str) -> Version | None:
        """The version that a build made."""
        with self._database.read() as conn:
            version = versions.of(conn, build_id)
        return version and self.located(version)

    def base(self, image: str) -> str:
        """The digest of an image's newest version, for one that is made from it; raises NotFound, Refused."""
        with self._database.read() as conn:
            found = versions.select(conn, image, limit=1)
        if not found:
            raise NotFound(f"there is no image {image!r}", hint="'imageflow image list' shows what there is")
        if found[0].state == versions.MISSING:
            raise _missing(found[0])
        ref = self.ref(found[0])
        if not any(artifact.format in FORMATS for artifact in ref.artifacts):
            raise Refused(
                f"image {image!r} is no disk that a machine could start from",
                hint=f"add one of {', '.join(FORMATS)} to its outputs",
            )
        return ref.digest

    def located(self, version: Version) -> Version:
        """With the path where it is now, as seen from here: a store can be moved, or mounted elsewhere."""
        if version.store != self._store.name:
            return version
        found = self._store.find(version.digest, version.build_id)
        return version if found is None else replace(version, path=found.path)

    def ref(self, version: Version) -> ImageRef:
        """A version as its store knows it; raises NotFound."""
        self._check_store(version)
        found = self._store.find(version.digest, version.build_id)
        if found is None and version.state == versions.MISSING:
            raise _missing(version)
        if found is None:
            wrong = (
                "is corrupt" if version.state == versions.CORRUPT else f"is not whole in the store '{version.store}'"
            )
            raise NotFound(
                f"{version.image}@{version.digest[:12]} {wrong}",
                hint=_way_out(version),
            )
        return found

    def _check_store(self, version: Version) -> None:
        """Raise NotFound where the version is in another store than the one that is configured now."""
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
            state = versions.CORRUPT if isinstance(error, Corrupt) else versions.MISSING
            why = error.message

            def lose(conn: Connection) -> None:
                for same in versions.holding(conn, version.store, version.digest):
                    missing.lose(conn, self._config, same, state, why)

            self._database.transact(lose, patience=PATIENCE)
            error.hint = error.hint or _way_out(version)
            raise
        if version.state != versions.STORED:

            def mend(conn: Connection) -> None:
                for same in versions.holding(conn, version.store, version.digest):
                    missing.restore(conn, self._config, same)

            self._database.transact(mend, patience=PATIENCE)
        return self.version(version.digest)

    def export(self, ref: str, to: Path, artifact: str | None, control: Control) -> Path:
        """Copy an artifact (the primary one by default) out of the store."""
        return self._store.copy_out(self.ref(self.version(ref)), artifact, to, control)

    def delete(self, ref: str) -> Version:
        """Delete a version; Conflict while a build uses it."""
        version = self.version(ref)
        self._check_store(version)
        self._delete(version)
        return version

    def _delete(self, version: Version) -> None:
        name = f"{version.store}:{version.digest}"

        def forget(conn: Connection) -> None:
            users = builds.using(conn, version.digest)
            if users:
                raise Conflict(
                    f"{version.image}@{version.digest[:12]} is used by build {users[0]}",
                    hint="wait for it to end, or abort it",
                )
            versions.mark(conn, version.id, versions.DELETED)
            publications.unwant(conn, version.id)
            builds.drop_claim(conn, version.build_id)
            outbox.announce_image(conn, self._config.announce.targets, "delete", version)
            ledger.open(conn, version.build_id, ResourceKind.PUBLICATION, name, self._config.host, time.time())

        def forgotten(conn: Connection) -> None:
            ledger.close(conn, version.build_id, ResourceKind.PUBLICATION, name, self._config.host, time.time())

        self._database.transact(forget, patience=PATIENCE)
        try:
            self._store.delete(version.digest, version.build_id)  # killed before this, the janitor does it
        except ImageflowError as error:
            error.hint = "; ".join(filter(None, [error.hint, _LATER]))
            raise
        self._database.transact(forgotten, patience=PATIENCE)

    def retire(self, image: str, recipe: Json) -> list[Version]:
        """Delete the versions of an image past the recipe's `publish.keep`, except what builds use.

        Raises Unavailable, and in the end Refused, for what the janitor has to remove later.
        """
        keep = (recipe.get("publish") or {}).get("keep")
        if not keep:
            return []
        retired, kept, refused = [], 0, None
        for version in self.versions(image):
            if version.store != self._store.name:
                continue
            if kept < int(keep):
                kept += version.state == versions.STORED
                continue
            try:
                self._delete(version)
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
