"""What builds leave in logs, rows, the store and the work folder, by failures and deaths too."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.builds.conductor import Conductor
from imageflow.errors import NoSpace
from imageflow.host.control import Control
from imageflow.host.workspace import Workspace
from imageflow.model import Artifact, Build, BuildState, ResourceKind, Version
from imageflow.persistence import builds, ledger, versions
from imageflow.persistence.database import Database
from imageflow.stores import ImageRef
from imageflow.stores.directory import DirectoryStore
from imageflow.tasks.publish import PublishImage
from imageflow.tasks.workspace import RemoveWorkspace
from tests.drivers.machine import need_loops
from tests.small.site import Site


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with Site(tmp_path, database=database_url) as site:
        yield site


def run_here(site: Site) -> None:
    """Be the worker, until nothing is queued."""
    Conductor(site.service).run(lambda: site.service.board.job_count == 0)


# Secrets


@pytest.mark.parametrize("on_failure", ["pause", "revert"])
def test_a_secret_in_an_error_is_stored_nowhere(
    tmp_path: Path, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "door").write_text("s3cret-door")
    with Site(tmp_path, secrets__directory=str(tmp_path / "secrets")) as site, caplog.at_level("DEBUG"):
        site.trace.set("shout-boot")
        build = site.build(on_failure=on_failure)
        run_here(site)
        assert "taskflow" in caplog.text and "s3cret" not in caplog.text
        assert site.service.build(build.id).error == "the key is ******"
        for file in site.config.state_dir.rglob("*"):
            if file.is_file():
                assert b"s3cret" not in file.read_bytes(), file


def test_a_worker_that_takes_over_knows_what_to_mask(tmp_path: Path) -> None:
    """What the steps of another worker left may hold secrets that this one has not used."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "door").write_text("s3cret-door")
    with Site(tmp_path, secrets__directory=str(tmp_path / "secrets")) as site:
        site.trace.set("fail-boot", "found s3cret-door in a file")
        build = site.build(dib={"environment": {"DOOR": {"secret": "door"}, "GONE": {"secret": "gone"}}})
        site.run_worker()
        assert site.service.build(build.id).error == "found ****** in a file"


# Versions


def stored(site: Site, build: Build, content: bytes) -> tuple[ImageRef, str]:
    """An image of a build in the store, and its name in the ledger."""
    file = site.folder / "made.raw"
    file.write_bytes(content)
    artifact = Artifact("small.raw", "raw", len(content), hashlib.sha256(content).hexdigest())
    ref = site.service.store.add([(file, artifact)], build_id=build.id, control=Control())
    return ref, f"{ref.store}:{ref.digest}"


def a_version(site: Site, build: Build, ref: ImageRef) -> Version:
    version = Version(0, "small", build.id, build.key, ref.digest, time.time(), ref.store, ref.path, ref.artifacts)
    with site.service.database.begin() as conn:
        builds.change(conn, build.id, to=BuildState.SUCCEEDED, digest=ref.digest)
        conn.execute(sa.text("delete from jobs"))
        return versions.add(conn, version)


def test_bytes_that_only_a_dead_worker_published_are_removed(site: Site) -> None:
    """It died after it had stored them; who took over made others, and those became the version."""
    build = site.build()
    orphan, name = stored(site, build, b"the first try")
    good, good_name = stored(site, build, b"the second try")
    with site.service.database.begin() as conn:
        for row in (name, good_name):
            ledger.open(conn, build.id, ResourceKind.PUBLICATION, row, site.config.host, time.time())
    a_version(site, build, good)
    site.service.reap()
    assert site.service.store.find(orphan.digest) is None
    assert site.service.store.find(good.digest) is not None
    assert site.service.resources() == []


class Died(BaseException):
    """The worker is gone, at this very place."""


def test_what_was_stored_by_one_that_died_before_it_could_say_so_is_removed(site: Site) -> None:
    """Nobody else knows the digest: the ledger must have it before the store has the files."""

    class Dying(DirectoryStore):
        def add(self, *args: Any, **kwargs: Any) -> ImageRef:
            super().add(*args, **kwargs)
            raise Died

    build = site.build(publish={"name": "small", "properties": {}})
    files = []
    for name in ("small.raw", "small.json"):
        file = site.folder / name
        file.write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        files.append({"path": str(file), "artifact": asdict(Artifact(name, "raw", len(name), digest))})
    description: Any = {**files.pop(), "packages": None, "content": None, "properties": {}}
    book = ledger.BuildLedger(site.service.database, build.id, site.config.host, lambda conn: None)
    with pytest.raises(Died):
        PublishImage().execute(
            build,
            files,
            description,
            Dying(site.config),
            book,
            Control(),
            progress=lambda *_: None,
        )
    assert len(site.service.store.list()) == 1
    site.service.cancel(build.id)
    site.service.reap()
    assert site.service.store.list() == []
    site.nothing_left()


def test_a_work_folder_that_can_not_be_removed_is_the_janitors(site: Site) -> None:
    """What is in the ledger is closed after it is gone."""
    need_loops()
    build = site.build()
    work = Workspace.of(build, site.config)
    work.path.mkdir(parents=True)
    disk = work.path / "disk"
    disk.write_bytes(bytes(1 << 20))
    book = ledger.BuildLedger(site.service.database, build.id, site.config.host, lambda conn: None)
    for kind, path in ((ResourceKind.DIRECTORY, work.path), (ResourceKind.LOOP, work.path)):
        book.open(kind, str(path))
    loop = subprocess.check_output(["losetup", "--find", "--show", disk], text=True).strip()
    with open(loop, "rb"):  # in use, so it stays
        RemoveWorkspace().execute(build, site.config, book, lambda _: None)
        assert len(site.service.resources()) == 2
    site.service.cancel(build.id)
    site.service.reap()
    site.nothing_left()


@pytest.mark.parametrize("sound", [True, False])
def test_a_version_that_is_deleted_while_it_is_verified_stays_deleted(
    site: Site, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    build = site.build()
    ref, _ = stored(site, build, b"x" * 100)
    version = a_version(site, build, ref)
    if sound:  # found to be corrupt once, and mended since
        with site.service.database.begin() as conn:
            versions.mark(conn, version.id, "corrupt")
    else:
        Path(ref.path).chmod(0o600)
        Path(ref.path).write_bytes(b"y" * 100)
    deleted: list[bool] = []

    def delete(_: float) -> None:
        if not deleted:
            deleted.append(True)
            site.service.images.delete(ref.digest)

    try:
        site.service.images.verify(ref.digest, Control(), delete)
    except Exception as error:
        assert type(error).__name__ in ("NotFound", "Corrupt"), error
    assert deleted
    assert site.service.images.versions() == []
    with site.service.database.read() as conn:
        assert [v.state for v in versions.select(conn, everything=True)] == ["deleted"]


def test_a_build_has_succeeded_even_if_old_versions_can_not_be_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"old", b"kept"):  # what this flow makes is in no store
        before = site.build()
        a_version(site, before, stored(site, before, content)[0])
    aside = site.config.store_path / ".lock"
    aside.unlink()
    aside.mkdir()  # the store can't be locked, so nothing is deleted from it
    build = site.build(publish={"keep": 1})
    with caplog.at_level("WARNING"):
        run_here(site)
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    words = site.service.log_path(build.id).read_text()
    assert "handed back" not in caplog.text and "bug" not in caplog.text
    assert "old versions" in words


# The disk


def test_a_log_that_can_not_be_opened_does_not_stop_a_build(site: Site) -> None:
    build = site.build()
    site.service.log_path(build.id).mkdir(parents=True)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED


# The database


def test_a_database_that_can_not_be_made_smaller_keeps_nothing_from_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Least of all on a full disk."""

    def full(_: Database) -> None:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(Database, "shrink", full)
    with Site(tmp_path) as site:
        folder = site.config.builds_dir / "0123456789ab"
        folder.mkdir(parents=True)
        with site.service.database.begin() as conn:
            ledger.open(conn, "0123456789ab", ResourceKind.DIRECTORY, str(folder), site.config.host, time.time())
        site.service.reap()
        assert not folder.exists() and site.service.resources() == []
    assert "the database can't be made smaller: the disk is full" in caplog.text
