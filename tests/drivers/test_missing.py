"""Versions that are gone from their store: what the database says of them, and what is told."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow import config
from imageflow.config import Config
from imageflow.errors import Corrupt, NotFound
from imageflow.host.control import Control
from imageflow.images.catalogue import Catalogue
from imageflow.model import Artifact, Build, BuildState, Version
from imageflow.persistence import builds, outbox, tables, versions
from imageflow.persistence.database import Database
from imageflow.stores.directory import DirectoryStore

WHY = "somebody deleted it"


class Images:
    """A store with image versions in it."""

    def __init__(self, database: Database, folder: Path) -> None:
        (folder / "c").write_text("[announce]\ntargets = http\nhttp_url = http://127.0.0.1:9/\n")
        self.folder = folder
        self.config: Config = config.load([str(folder / "c")], str(folder / "state"))
        self.database = database
        self.store = DirectoryStore(self.config)
        self.catalogue = Catalogue(self.config, database, self.store)

    def made(self, image: str = "web") -> Version:
        content = secrets.token_bytes(16)
        file = self.folder / "disk.raw"
        file.write_bytes(content)
        artifact = Artifact("disk.raw", "raw", 16, hashlib.sha256(content).hexdigest())
        build = Build(
            id=secrets.token_hex(6),
            image=image,
            method="boot",
            state=BuildState.SUCCEEDED,
            reason="a test",
            key=secrets.token_hex(32),
            flow=str(uuid.uuid4()),
            created=time.time(),
        )
        ref = self.store.add([(file, artifact)], build_id=build.id, control=Control(), move=True)
        version = Version(
            0, image, build.id, build.key, ref.digest, build.created, ref.store, ref.path, artifacts=ref.artifacts
        )
        with self.database.begin() as conn:
            assert builds.claim_or_holder(conn, build) is None
            return versions.add(conn, version)

    def take_away(self, version: Version) -> Path:
        """What lies in the store goes somewhere else."""
        away = self.folder / "away"
        shutil.move(Path(version.path).parent, away)
        return away

    def bring_back(self, version: Version) -> None:
        shutil.move(self.folder / "away", Path(version.path).parent)

    def look(self, *suspects: Version) -> list[Version]:
        return self.catalogue.look_for(suspects, WHY)

    def state(self, version: Version) -> str:
        with self.database.read() as conn:
            found = versions.of(conn, version.build_id)
        assert found is not None
        return found.state

    def holder(self, version: Version) -> str | None:
        with self.database.read() as conn:
            found = builds.holder(conn, version.key)
        return found and found.id

    def told(self) -> list[str]:
        with self.database.read() as conn:
            return [one.announcement.type.removeprefix("imageflow.image.") for one in outbox.select(conn)][::-1]


@pytest.fixture
def images(database: Database, tmp_path: Path) -> Images:
    return Images(database, tmp_path)


def test_what_is_gone_is_missing_and_told_once(images: Images) -> None:
    gone, there = images.made(), images.made("db")
    images.take_away(gone)
    assert [one.build_id for one in images.look(gone, there)] == [gone.build_id]
    assert images.look(gone, there) == []
    assert (images.state(gone), images.state(there)) == ("missing", "stored")
    assert images.holder(gone) is None and images.holder(there) == there.build_id
    assert images.told() == ["missing"]
    found = images.catalogue.version("web")
    assert found.why == WHY and found.since is not None and abs(found.since - time.time()) < 60
    assert [one.state for one in images.catalogue.versions("web")] == ["missing"]
    with pytest.raises(NotFound, match="is missing: somebody deleted it"):
        images.catalogue.base("web")
    with pytest.raises(NotFound, match="is missing: somebody deleted it"):
        images.catalogue.export("web", images.folder, None, Control())


def test_an_older_version_does_not_take_its_place_as_a_base(images: Images) -> None:
    images.made()
    images.take_away(newest := images.made())
    images.look(newest)
    with pytest.raises(NotFound, match="is missing"):
        images.catalogue.base("web")


def test_it_comes_back_by_verify_and_stands_for_its_key_again(images: Images) -> None:
    version = images.made()
    for _ in range(2):
        images.take_away(version)
        images.look(version)
        with pytest.raises(NotFound):
            images.catalogue.verify("web", Control())
        images.bring_back(version)
        assert images.state(version) == "missing"
        found = images.catalogue.verify("web", Control())
        assert (found.state, found.why) == ("stored", None)
        assert images.holder(version) == version.build_id
    assert images.told() == ["missing", "restore"] * 2


def test_a_build_that_took_the_key_meanwhile_keeps_it(images: Images) -> None:
    version = images.made()
    images.take_away(version)
    images.look(version)
    with images.database.begin() as conn:
        other = replace(builds.get(conn, version.build_id), id=secrets.token_hex(6), flow=str(uuid.uuid4()))
        assert builds.claim_or_holder(conn, other) is None
    images.bring_back(version)
    images.catalogue.verify("web", Control())
    assert images.holder(version) == other.id


def test_verify_finds_out_by_itself(images: Images) -> None:
    version = images.made()
    images.take_away(version)
    with pytest.raises(NotFound):
        images.catalogue.verify("web", Control())
    assert images.state(version) == "missing" and images.told() == ["missing"]


def test_what_we_delete_is_not_missing(images: Images) -> None:
    version = images.made()
    images.catalogue.delete("web")
    assert images.look(version) == []
    assert images.state(version) == "deleted" and images.told() == ["delete"]


def test_what_is_missing_does_not_count_as_kept(images: Images) -> None:
    made = [images.made() for _ in range(4)]
    images.take_away(made[3])
    images.look(made[3])
    retired = images.catalogue.retire("web", {"publish": {"keep": 2}})
    assert [one.build_id for one in retired] == [made[0].build_id]
    assert [images.state(one) for one in made] == ["deleted", "stored", "stored", "missing"]


def test_what_is_corrupt_does_not_count_as_kept(images: Images) -> None:
    made = [images.made() for _ in range(4)]
    file = Path(made[2].path)
    file.chmod(0o600)
    file.write_bytes(b"x" * 16)
    with pytest.raises(Corrupt) as corrupt:
        images.catalogue.verify(made[2].digest, Control())
    assert "build it again" in corrupt.value.hint
    images.catalogue.retire("web", {"publish": {"keep": 2}})
    assert [images.state(one) for one in made] == ["deleted", "stored", "corrupt", "stored"]


def test_all_are_looked_at_in_turn(images: Images) -> None:
    made = [images.made() for _ in range(5)]
    with images.database.read() as conn:
        first = versions.some(conn, "directory", None, 3)
        second = versions.some(conn, "directory", first[-1].id, 3)
        assert versions.some(conn, "glance", None, 3) == []
    assert [one.build_id for one in first + second] == [one.build_id for one in reversed(made)]


def test_what_is_in_another_store_is_left_alone(images: Images) -> None:
    version = images.made()
    with images.database.begin() as conn:  # as before [store] driver was changed
        conn.execute(sa.update(tables.versions).where(tables.versions.c.id == version.id).values(store="glance"))
    for ask in (
        lambda: images.catalogue.verify("web", Control()),
        lambda: images.catalogue.export("web", images.folder, None, Control()),
        lambda: images.catalogue.delete("web"),
        lambda: images.catalogue.base("web"),
    ):
        with pytest.raises(NotFound, match=r"in the store 'glance', and .store. driver is 'directory'") as raised:
            ask()
        assert "driver = glance" in raised.value.hint
    newer = images.made(), images.made()
    assert [one.id for one in images.catalogue.retire("web", {"publish": {"keep": 1}})] == [newer[0].id]
    assert images.state(version) == "stored"
    assert images.told() == ["delete"]
