"""The samples in doc/: `python -m tests.samples.announcements` writes them again; a test fails when that is due."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from imageflow.announce import payload
from imageflow.announce.notifications import message
from imageflow.model import Announcement, Artifact, Build, BuildState, Version, VersionState
from imageflow.persistence import outbox

DOC = Path(__file__).parents[2] / "doc"
HOST = "builder1"
SOURCE = f"//{HOST}/imageflow"
_AT = 1767225600.0  # 2026-01-01T00:00:00Z
_DIGEST = "6f1ed002ab5595859014ebf0951522d9" * 2

BUILD = Build(
    id="5d41402abc4b",
    image="web",
    method="boot",
    state=BuildState.RUNNING,
    reason="base debian-base changed",
    key="9b74c9897bac770ffc029102a200c5de" * 2,
    flow="",
    created=_AT,
    started=_AT + 1.25,
    host=HOST,
    step="prepare-machine",
)
VERSION = Version(
    id=1,
    image="web",
    build_id=BUILD.id,
    key=BUILD.key,
    digest=_DIGEST,
    created=_AT + 301.5,
    store="directory",
    path=f"/var/lib/imageflow/images/{_DIGEST}/web.qcow2",
    artifacts=(Artifact("web.qcow2", "qcow2", 412876800, _DIGEST, 4294967296),),
    properties={"os_distro": "debian"},
    packages=312,
    content="0cc175b9c0f1b6a831c399e269772661" * 2,
)


def announcements() -> list[Announcement]:
    """One of each type."""
    failed = {"step": "configure", "error": "nginx: no such package", "hint": "see 'imageflow build log 5d41402abc4b'"}
    paused = replace(BUILD, state=BuildState.PAUSED, paused=_AT + 120, **failed)  # type: ignore[arg-type]
    ended = replace(BUILD, state=BuildState.SUCCEEDED, ended=_AT + 301.5, step=None, digest=_DIGEST)
    error = replace(BUILD, state=BuildState.FAILED, ended=_AT + 130, **failed)  # type: ignore[arg-type]
    resumed = replace(BUILD, state=BuildState.QUEUED)
    begun = replace(BUILD, started=None, step=None)  # the first step runs after it
    builds = {"start": begun, "pause": paused, "resume": resumed, "end": ended, "error": error}
    found = [("build", what, outbox.build_data(asdict(build))) for what, build in builds.items()]
    gone = replace(VERSION, state=VersionState.MISSING, why="its image is deleted (glance.image.delete)")
    images = dict.fromkeys(outbox.IMAGE, VERSION) | {"missing": gone}
    found += [("image", what, outbox.image_data(version)) for what, version in images.items()]
    return [_announcement(f"imageflow.{about}.{what}", data) for about, what, data in found]


def _announcement(kind: str, data: dict[str, Any]) -> Announcement:
    return Announcement(str(uuid.uuid5(uuid.NAMESPACE_DNS, kind)), BUILD.id, kind, _AT + 301.5, data)


def samples() -> dict[Path, str]:
    """What each file should hold."""
    found: dict[Path, Any] = {}
    for one in announcements():
        short = one.type.removeprefix("imageflow.").replace(".", "-")
        found[DOC / "notification_samples" / f"{short}.json"] = message(one, HOST)
        for event in payload.clouds(one, SOURCE, with_cdevents=True):
            kind = event.get_type()
            name = f"{short}.{'.'.join(kind.split('.')[1:4])}" if kind.startswith("dev.cdevents.") else short
            found[DOC / "cloudevents_samples" / f"{name}.json"] = json.loads(payload.encode(event))
    return {path: json.dumps(value, indent=2) + "\n" for path, value in found.items()}


def write() -> None:
    """Make the files what they should be."""
    for folder in {path.parent for path in samples()}:
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.json"):
            old.unlink()
    for path, text in samples().items():
        path.write_text(text)


if __name__ == "__main__":
    write()
