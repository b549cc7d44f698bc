"""A guest over SSH, and a recipe's folder from which provisioners change it; no secret stays in the log."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imageflow import provisioners
from imageflow.guest.connect import SshConnection, connect
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from imageflow.provisioners import Context
from tests.drivers.sshguest import SshGuest

SECRETS = {"token": "s3cret-token", "ada": "open-sesame-42"}


@dataclass
class Site:
    """A guest, and a recipe's folder."""

    guest: SshGuest
    connection: SshConnection
    folder: Path
    work: Path
    control: Control
    log: BuildLog
    progress: list[tuple[float, str]] = field(default_factory=list)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pins(self) -> dict[str, str]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            f"file:{path.relative_to(self.folder)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }

    def apply(self, kind: str, value: Any, pins: dict[str, str] | None = None) -> None:
        made = provisioners.find(kind)
        assert len(made.title(value)) < 60
        made.check(value, self.folder)
        with _folder(self.work) as work:
            context = Context(
                guest=self.connection,
                access=self.guest.access,
                folder=self.folder,
                pins=self.pins() if pins is None else pins,
                work=work,
                control=self.control,
                log=self.log,
                progress=lambda share, text: self.progress.append((share, text)),
                secret=SECRETS.__getitem__,
            )
            made.apply(value, context)

    def sh(self, script: str) -> str:
        """What a script inside prints, without SSH."""
        return self.guest.command("sh", "-c", script)

    def said(self) -> str:
        return self.log.path.read_text()


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def provisioned(guest: SshGuest, folder: Path) -> Iterator[Site]:
    control = Control(time.monotonic() + 280, build_id="test-provisioners")
    log = BuildLog(folder / "log", SECRETS.values())
    (folder / "recipe").mkdir()
    (folder / "log").touch()
    with connect(guest.access, control=control, log=log) as connection:
        yield Site(guest, connection, folder / "recipe", folder / "work", control, log)
    assert guest.marked() == []
    assert not [value for value in SECRETS.values() if value in log.path.read_text()]
