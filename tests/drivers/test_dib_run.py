"""The method dib with a real diskimage-builder, on an image of a few of this machine's own programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from taskflow import states

from imageflow.errors import Cancelled, CommandFailed, InputChanged, NoSpace, NotSealed
from imageflow.host import process, removal
from imageflow.model import ResourceKind
from imageflow.tasks.disk import BuildDisk
from imageflow.tasks.inputs import CollectInputs
from imageflow.tasks.workspace import PrepareWorkspace
from tests.cpu import spent
from tests.drivers.dib_run import RECIPES, prepare
from tests.drivers.machine import need, need_loops

TINY = RECIPES / "tiny.yaml"
pytestmark = [pytest.mark.machine(seconds=20), pytest.mark.timeout(300)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder; afterwards nothing of it is left on this machine but plain files."""
    need_loops()
    need("sudo", "qemu-img", "mkfs.ext4", "unshare")
    yield tmp_path / "state"
    left = [*removal.mounts_under(tmp_path), *removal.loops_under(tmp_path)]
    removal.remove(ResourceKind.DIRECTORY, str(tmp_path / "state"))
    assert left == []


def disk_of(publication: dict[str, Any], name: str) -> Path:
    return Path(publication["path"]).parent / name


def read(image: Path, file: str) -> str:
    """A file of an ext4 image without mounting it."""
    return subprocess.run(
        ["debugfs", "-R", f"cat {file}", str(image)], capture_output=True, text=True, check=True
    ).stdout


def eventually(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_recipe_becomes_a_version(state: Path) -> None:
    run = prepare(
        TINY,
        state,
        outputs=["qcow2", "raw", "tar", "tgz", "vhd", "kernel"],
        dib={"environment": {"DIB_JOURNAL_SIZE": "4", "TINY_KERNEL": "1", "DIB_SOME_PASSWORD": {"secret": "token"}}},
        publish={"properties": {"os_distro": "tiny"}},
    )
    run.secrets = {"token": "very-secret-value"}
    publication = run.run()

    names = [artifact["name"] for artifact in publication["artifacts"]]
    assert names == [
        "tiny.qcow2",
        "tiny.raw",
        "tiny.tar",
        "tiny.tgz",
        "tiny.vhd",
        "tiny.vmlinuz",
        "tiny.initrd",
        "tiny.manifest.json",
    ]
    assert publication["digest"] == publication["artifacts"][0]["digest"]
    assert publication["properties"] == {"os_distro": "tiny"}
    for artifact in publication["artifacts"]:
        file = disk_of(publication, artifact["name"])
        assert file.stat().st_size == artifact["size"]
        assert subprocess.check_output(["sha256sum", file], text=True).split()[0] == artifact["digest"]

    raw = disk_of(publication, "tiny.raw")
    assert raw.stat().st_blocks * 512 < raw.stat().st_size, "a sparse disk stays sparse"
    qcow2 = disk_of(publication, "tiny.qcow2")
    subprocess.run(["qemu-img", "check", "-q", qcow2], check=True)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", qcow2]))
    assert info["format-specific"]["data"]["compression-type"] == "zstd"
    assert info["virtual-size"] == publication["artifacts"][0]["virtual_size"] == raw.stat().st_size
    for disk in ("tiny.qcow2", "tiny.vhd"):
        subprocess.run(["qemu-img", "compare", "-q", raw, disk_of(publication, disk)], check=True)

    assert "Tiny, and still" in read(raw, "/etc/motd")
    for packed in ("tiny.tar", "tiny.tgz"):
        with tarfile.open(disk_of(publication, packed)) as archive:
            assert archive.getmember("./etc/motd").mode == 0o640

    assert run.ledger.rows == [(ResourceKind.PUBLICATION, f"directory:{publication['digest']}")]
    assert run.ledger.seen[:3] == [ResourceKind.DIRECTORY, ResourceKind.MOUNT, ResourceKind.LOOP]
    assert not run.work.exists()
    done = [fraction for fraction, phase in run.progress if phase not in run.build.recipe["outputs"]]
    assert done == sorted(done)
    assert {"root", "install", "finalise"} <= {phase for _, phase in run.progress}

    written = [run.log.path, disk_of(publication, "tiny.manifest.json"), raw, disk_of(publication, "tiny.tar")]
    for file in written:
        assert b"very-secret-value" not in file.read_bytes(), file
    manifest = json.loads(disk_of(publication, "tiny.manifest.json").read_text())
    assert manifest["dib_environment"]["DIB_SOME_PASSWORD"] == "******"
    assert manifest["imageflow"]["build"] == run.build.id
    assert manifest["pins"] == run.build.pins
    assert 'DIB_SOME_PASSWORD="******"' in read(raw, "/etc/dib-manifests/dib_environment")


def test_on_disk_where_memory_is_not_wanted(state: Path) -> None:
    run = prepare(TINY, state, outputs=["tar"], dib={"no-tmpfs": True})
    publication = run.run()
    assert ResourceKind.MOUNT not in run.ledger.seen
    assert [artifact["name"] for artifact in publication["artifacts"]] == ["tiny.tar", "tiny.manifest.json"]


@pytest.mark.sliced(of=2)
@pytest.mark.parametrize("table", ["mbr", "gpt"])
def test_partitions(state: Path, table: str) -> None:
    need("sgdisk", "sfdisk")
    boot = "flags: [boot, primary]," if table == "mbr" else ""
    primary = "flags: [primary]," if table == "mbr" else ""
    config = f"""
        - local_loop: {{name: image0}}
        - partitioning:
            base: image0
            label: {table}
            partitions:
              - {{name: first, {boot} size: 4MiB}}
              - {{name: root, {primary} size: 100%, mkfs: {{mount: {{mount_point: /, fstab: {{options: defaults}}}}}}}}
        """
    environment = {"DIB_JOURNAL_SIZE": "4", "DIB_BLOCK_DEVICE_CONFIG": textwrap.dedent(config), "DIB_IMAGE_SIZE": "0.1"}
    run = prepare(TINY, state, outputs=["raw"], dib={"environment": environment})
    publication = run.run()
    said = json.loads(subprocess.check_output(["sfdisk", "--json", publication["path"]]))["partitiontable"]
    assert said["label"] == {"mbr": "dos", "gpt": "gpt"}[table]
    assert len(said["partitions"]) == 2


def test_a_failing_hook_is_named_and_the_build_goes_on_from_there(state: Path, tmp_path: Path) -> None:
    (tmp_path / "fail").mkdir()
    (tmp_path / "fail" / "reason").write_text("the moon is full")
    run = prepare(TINY, state, outputs=["tar"], dib={"environment": {"TINY_FAIL": str(tmp_path / "fail")}})
    engine = run.engine(never_resolve=True)
    with pytest.raises(CommandFailed) as failure:
        engine.run()
    assert "extra-data.d/50-tiny-fail" in failure.value.message
    assert "exit code 7" in failure.value.message
    assert "the moon is full" in failure.value.hint
    assert run.work.exists()
    assert removal.loops_under(run.work) == []

    shutil.rmtree(tmp_path / "fail")
    engine.storage.reset("build-disk")
    engine.run()
    assert engine.storage.get_flow_state() == states.SUCCESS
    assert not run.work.exists()


def test_cancelled_in_the_middle_everything_is_reverted(state: Path) -> None:
    run = prepare(TINY, state, dib={"environment": {"TINY_SLEEP": "300"}})
    stop = threading.Thread(
        target=lambda: (eventually(lambda: "50-tiny-sleep" in run.said()), run.control.stop(Cancelled()))
    )
    stop.start()
    with pytest.raises(Cancelled):
        run.run()
    stop.join()
    assert not run.work.exists()
    assert run.ledger.rows == []
    assert process.end_leftovers(run.build.id) == []


WORKER = """
    import sys
    from pathlib import Path
    from imageflow.model import Build, BuildState
    from tests.drivers.dib_run import Run, prepare
    run = prepare(Path(sys.argv[1]), Path(sys.argv[2]), outputs=["tar"], dib={"environment": {"TINY_SLEEP": sys.argv[4]}})
    from dataclasses import replace
    run = Run(replace(run.build, id=sys.argv[3]), run.config)
    run.run()
"""


@pytest.mark.sliced(of=3)
@pytest.mark.parametrize(
    "moment", ["50-tiny-sleep", "sha256", None], ids=["in a hook", "when all is done", "with a loop device"]
)
def test_killed_at_any_moment_nothing_stays_and_another_worker_finishes(state: Path, moment: str | None) -> None:
    run = prepare(TINY, state, outputs=["tar"], dib={"environment": {"TINY_SLEEP": "1"}})
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(WORKER), str(TINY), str(state), run.build.id, "1"]
    worker = subprocess.Popen(command, env=environment)
    try:
        if moment is None:
            eventually(lambda: bool(removal.loops_under(run.work)))
        else:
            eventually(lambda: moment in run.said())
    finally:
        worker.kill()
        worker.wait()
    process.end_leftovers(run.build.id)
    publication = run.run()  # adopts whatever there is
    assert publication["artifacts"][0]["name"] == "tiny.tar"
    assert not run.work.exists()
    assert process.end_leftovers(run.build.id) == []


def test_the_janitor_can_remove_what_a_killed_build_left(state: Path) -> None:
    run = prepare(TINY, state)
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(WORKER), str(TINY), str(state), run.build.id, "1"]
    worker = subprocess.Popen(command, env=environment)
    try:
        eventually(lambda: bool(removal.loops_under(run.work)))
    finally:
        worker.kill()
        worker.wait()
    process.end_leftovers(run.build.id)
    for kind, name in (
        (ResourceKind.LOOP, run.work),
        (ResourceKind.MOUNT, run.work / "tmp"),
        (ResourceKind.DIRECTORY, run.work),
    ):
        removal.remove(kind, str(name))
    assert not run.work.exists()


def test_what_diskimage_builder_finished_is_not_built_again(state: Path) -> None:
    run = prepare(TINY, state, outputs=["tar"])
    given = run.given()

    def call(task: Any, *names: str, **more: Any) -> Any:
        return task.execute(**{name: given[name] for name in names}, **more)

    workspace = call(PrepareWorkspace(), "build", "config", "ledger", "log")
    again = call(PrepareWorkspace(), "build", "config", "ledger", "log")
    assert again == workspace == {"path": str(run.work), "memory": True}
    assert PrepareWorkspace().survives(workspace)
    assert len(removal.mounts_under(run.work)) == 1
    call(CollectInputs(), "build", "config", workspace=workspace)
    arguments = ("build", "config", "log", "progress", "control", "secret")
    first = call(BuildDisk(), *arguments, workspace=workspace, inputs={})
    with spent() as seconds:
        second = call(BuildDisk(), *arguments, workspace=workspace, inputs={})
    assert first == second
    assert seconds() < 1
    assert BuildDisk().survives(first)
    next(Path(first["folder"]).glob("*.tar")).unlink()
    assert not BuildDisk().survives(first)
    PrepareWorkspace().revert(run.build, run.config, run.ledger)
    assert run.ledger.rows == []


def test_a_changed_input_stops_the_build(state: Path, tmp_path: Path) -> None:
    for name in ("tiny.yaml", "motd", "elements"):
        subprocess.run(["cp", "-r", str(RECIPES / name), str(tmp_path / name)], check=True)
    run = prepare(tmp_path / "tiny.yaml", state)
    (tmp_path / "motd").write_text("other words")
    with pytest.raises(InputChanged, match="file:motd"):
        run.run()
    run = prepare(tmp_path / "tiny.yaml", state)
    (tmp_path / "elements/tiny/root.d/11-more").write_text("#!/bin/bash\n")
    with pytest.raises(InputChanged, match="element:tiny"):
        run.run()
    assert run.ledger.rows == []


def test_too_little_space_is_said_before_anything_starts(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_DIB__MIN_FREE", "1000000")
    run = prepare(TINY, state)
    with pytest.raises(NoSpace, match="GiB free, the build needs 1000000"):
        run.run()
    assert run.ledger.rows == []
    assert not run.work.exists()


def test_memory_that_is_too_small_is_said_so(state: Path) -> None:
    run = prepare(TINY, state)
    (run.work / "tmp").mkdir(parents=True)
    removal.mount_tmpfs(run.work / "tmp", 4 << 20)
    with pytest.raises(NoSpace, match="No space left") as failure:
        run.run()
    assert "tmpfs" in failure.value.hint
    assert not run.work.exists()


@pytest.mark.sliced(of=5)
@pytest.mark.parametrize(
    ("output", "written", "place"),
    [
        ("raw", 'echo "$DIB_SOME_PASSWORD"', "/opt/leak"),
        ("qcow2", 'printf "user:%s" "$DIB_SOME_PASSWORD" | base64', "/opt/leak"),
        ("tar", 'echo "password $DIB_SOME_PASSWORD"', "/opt/leak"),
        ("tgz", 'echo "$DIB_SOME_PASSWORD" | gzip', "/opt/leak"),
        ("squashfs", 'printf %s "$DIB_SOME_PASSWORD" | od -An -tx1 | tr -d " \\n"', "/opt/leak"),
    ],
)
def test_a_secret_in_the_finished_image_is_never_published(
    state: Path, tmp_path: Path, output: str, written: str, place: str
) -> None:
    folder = tmp_path / "recipes"
    shutil.copytree(TINY.parent, folder)
    hook = folder / "elements/leaky/cleanup.d/60-leak"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/bash\nset -eu\nmkdir -p $TARGET_ROOT/opt\n{written} > $TARGET_ROOT/opt/leak\n")
    hook.chmod(0o755)
    elements = {"elements": ["tiny", "leaky"], "environment": {"DIB_SOME_PASSWORD": {"secret": "token"}}}
    run = prepare(folder / "tiny.yaml", state, outputs=[output], dib=elements)
    run.secrets = {"token": "very-secret?value"}
    with pytest.raises(NotSealed) as failure:
        run.run()
    assert failure.value.message.startswith(f"a secret of the build is in the image: {place} ")
    assert "very-secret" not in str(failure.value)
    assert run.store.list() == []
