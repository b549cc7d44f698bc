"""Processes that add to the store in Glance and are killed, or are many, or have little memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from imageflow.errors import NotFound
from imageflow.host.control import Control
from imageflow.model import Artifact
from tests.cloud.glance_rig import GlanceRig, one_whole_set
from tests.contracts.stores import image

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=2)]


@pytest.fixture
def rig(glance_rig: GlanceRig) -> GlanceRig:
    return glance_rig


@pytest.fixture
def control() -> Control:
    return Control()


_WORKER = """
import json, os, resource, signal, sys
from pathlib import Path
said = json.loads(sys.argv[1])
from imageflow import config
from imageflow.config.clouds import GlanceConfig, OpenStackConfig
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.stores.glance.driver import GlanceStore
import dataclasses
def progress(fraction):
    if fraction >= said["until"]:
        os.kill(os.getpid(), signal.SIGKILL)
settings = dataclasses.replace(
    config.load(state_dir=said["folder"]),
    openstack=OpenStackConfig("store", None, Path(said["clouds_yaml"]), 60.0, 60.0),
    glance=GlanceConfig("private", "upload", ()),
)
files = [(Path(path), Artifact(**artifact)) for path, artifact in said["files"]]
if said["go"]:
    print("ready", flush=True)
    sys.stdin.readline()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ref = GlanceStore(settings).add(files, build_id="b1", control=Control(), progress=progress)
print(json.dumps([ref.path, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@contextlib.contextmanager
def worker(
    rig: GlanceRig,
    files: list[tuple[Path, Artifact]],
    *,
    until: float = 2.0,
    go: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A process that adds the files; it is killed when the fraction `until` is sent."""
    said = {
        "folder": str(rig.folder),
        "clouds_yaml": str(rig.project.clouds_yaml),
        "files": [[str(path), dataclasses.asdict(artifact)] for path, artifact in files],
        "until": until,
        "go": go,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WORKER), json.dumps(said)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("until", [0.3, 1.0])
def test_killed_while_it_is_sent(rig: GlanceRig, tmp_path: Path, control: Control, until: float) -> None:
    files = image(tmp_path / "one", size=32 << 20)
    with worker(rig, files, until=until) as child:
        assert child.wait(120) == -signal.SIGKILL
    assert rig.images
    assert rig.store().find(files[0][1].digest) is None
    ref = rig.store().add(files, build_id="b1", control=control)
    one_whole_set(rig, ref.digest)


def killed_at(rig: GlanceRig, files: list[tuple[Path, Artifact]], number: int, after: bool) -> bool:
    """Whether a process that adds the files was killed at its request of this number, before or after it was answered."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    try:
        store = rig.store()
        session = store._images.cloud.session
        session.session = requests.Session()  # not the parent's connections
        send = session.session.send
        left = number

        def count(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = send(*arguments, **more)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        session.session.send = count
        store.add(files, build_id="b1", control=Control())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def test_killed_at_every_request(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=64_000)
    digest = files[0][1].digest
    store = rig.store()
    number = 0
    while killed_at(rig, files, number, after=number % 2 == 1) or killed_at(rig, files, number, after=True):
        if number % 3 == 2:  # nobody goes on: then it is tidied away
            store.tidy(lambda build_id: False)
            assert len(rig.images) in (0, 2)
        store.add(files, build_id="b1", control=control)
        assert [r.digest for r in store.list()] == [digest]
        assert len(rig.images) == 2
        store.delete(digest, "b1")
        assert rig.images == []
        number += 1
    assert number > 10


def test_four_at_once(rig: GlanceRig, tmp_path: Path) -> None:
    files = image(tmp_path / "one", size=16 << 20)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(worker(rig, files, go=True)) for _ in range(4)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            assert child.wait(200) == 0
    one_whole_set(rig, files[0][1].digest)


def test_a_large_file_needs_little_memory(rig: GlanceRig, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        for number in range(300):
            file.write(number.to_bytes(4, "big") * (1 << 18))
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
    artifact = Artifact("disk.raw", "raw", 300 << 20, sha256.hexdigest(), 300 << 20)
    with worker(rig, [(path, artifact)]) as child:
        out, _ = child.communicate(timeout=250)
    _id, before, peak = json.loads(out)
    assert peak - before < 100 << 10  # KiB; the clients themselves take most of it
    one_whole_set(rig, artifact.digest, 1)


def test_reading_needs_little_memory_and_can_be_left(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=16 << 20)
    store = rig.store()
    ref = store.add(files, build_id="b1", control=control)
    for _ in range(20):  # more than a session has connections: each is given back
        with store.open(ref) as file:
            assert len(file.read(10)) == 10
    with pytest.raises(NotFound):
        store.open(dataclasses.replace(ref, digest="e" * 64))
