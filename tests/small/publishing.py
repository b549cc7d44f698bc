"""A site that publishes its versions to two targets: for the tests with folders, and for those with clouds."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from imageflow import config
from imageflow.background.flag import Flag
from imageflow.host.control import Control
from imageflow.images.publisher import Publisher
from imageflow.model import Artifact, Build, BuildState, Publication, Version
from imageflow.persistence import builds, publications, versions
from imageflow.service import Service
from imageflow.stores import targets
from tests.small.program import Program
from tests.small.site import Site

ONE = """
images:
  - name: web
    method: dib
    dib: {elements: [tiny], skip-base: true}
    configure: [{files: [{path: /etc/motd, source: motd}]}]
    publish: {keep: 2, properties: {os_distro: debian}}
    on: [{event: git.push, where: {repository: infra}}]
"""


class Place:
    """A site that publishes to two folders beside it, `near` and `far`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.service = site.service
        self.folders = {name: site.folder / name for name in ("near", "far")}
        self.program = Program(site.config.state_dir, "--config-file", str(site.file))
        self._started: list[subprocess.Popen[str]] = []

    def configured(self, **options: str) -> None:
        """The same with these options of [publish]."""
        text = self.site.file.read_text().partition("[publish]")[0]
        given = {
            "targets": options.pop("targets", entries(self.site.folder)),
            "max_wait": "0.3",
            "lease": "2",
            **options,
        }
        self.site.file.write_text(
            text + "[publish]\n" + "".join(f"{name} = {value}\n" for name, value in given.items())
        )
        self.service.close()
        self.service = self.site.service = Service.open(config.load([str(self.site.file)]))

    def version(self, size: int = 64, image: str = "web") -> Version:
        """A version in the store, of this size in bytes, with a wish for all targets."""
        id = uuid.uuid4().hex[:12]
        file, digest = self.site.folder / f"{id}.raw", hashlib.sha256()
        piece = (id.encode() * (1 + min(size, 1 << 20) // 12))[: min(size, 1 << 20)]
        with file.open("wb") as out:
            for _ in range(size // len(piece)):
                out.write(piece)
                digest.update(piece)
        artifact = Artifact(f"{image}.raw", "raw", file.stat().st_size, digest.hexdigest())
        ref = self.service.store.add([(file, artifact)], build_id=id, control=Control(), move=True)
        build = Build(id, image, "dib", BuildState.SUCCEEDED, "new", id * 5, "f", 1.0, recipe={"publish": {}})
        version = Version(0, image, id, id * 5, ref.digest, time.time(), ref.store, ref.path, ref.artifacts)

        def add(conn: sa.Connection) -> Version:
            builds.insert(conn, build, claim=False)
            made = versions.add(conn, version)
            publications.want(conn, made.id, targets.names(self.service.config))
            return made

        return self.service.database.transact(add)

    def serve(self) -> subprocess.Popen[str]:
        """`imageflow serve`, which ends with the test."""
        with (self.site.folder / "serve.log").open("a") as log:
            self._started.append(self.program.start("serve", "--listen", "none", stdout=log, stderr=log))
        return self._started[-1]

    @contextlib.contextmanager
    def publishing(self, *names: str) -> Iterator[None]:
        """Run publishers of these targets, or of all, in threads."""
        stop = Flag()
        found = [
            one
            for one in targets.parse(self.service.config)
            if one.name in (names or targets.names(self.service.config))
        ]
        threads = [
            threading.Thread(
                target=Publisher(
                    self.service.config, self.service.database, self.service.store, self.service.images, one
                ).run,
                args=(stop,),
                daemon=True,
            )
            for one in found
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()

    def rows(self, **which: Any) -> list[Publication]:
        return self.service.publications.select(**which)

    def states(self) -> dict[str, set[str]]:
        return {name: {one.state for one in self.rows(target=name)} for name in self.folders}

    def await_that(self, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            log = self.site.folder / "serve.log"
            assert time.monotonic() < end, (self.rows(), log.read_text()[-3000:] if log.exists() else "")
            time.sleep(0.002)
        return value

    def await_serving(self, count: int) -> None:
        """Wait until this many of the started processes serve: one may have done all the work before the others are up."""
        self.await_that(lambda: (self.site.folder / "serve.log").read_text().count(" serves, ") == count)

    def await_stored(self, seconds: float = 60.0) -> None:
        self.await_that(lambda: all(one.state == "stored" for one in self.rows()), seconds)

    def content(self, name: str) -> list[str]:
        """Everything in a folder but its lock."""
        return sorted(entry.name for entry in self.folders[name].iterdir() if entry.name != ".lock")

    def exactly(self, name: str, *expected: Version) -> None:
        """Check that these versions are in the target and sound, and that nothing else is there."""
        assert self.content(name) == sorted(version.digest for version in expected)
        store = next(one for one in targets.parse(self.service.config) if one.name == name).store
        for version in expected:
            store.verify(version.digest, Control())

    def close(self) -> None:
        for process in self._started:
            with process:
                process.kill()


def entries(folder: Path) -> str:
    return f"near=directory:{folder}/near, far=directory:{folder}/far"
