"""Builds from the command line: a flow of small real steps, and a real diskimage-builder run."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.model import BuildState
from tests.servers.services import missing, require
from tests.small.program import ROOT, Program
from tests.small.site import Site

TINY = ROOT / "tests/recipes/tiny.yaml"


class Small(Site):
    """A site whose builds the program can run: the small flow is installed as a build method."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        info = folder / "plugins" / "small_method-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-method\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[imageflow.methods]\nsmall = small_method:flow\n")
        factory = f"from tests.small.flow import small\n\n\ndef flow():\n    return small({str(self.trace.folder)!r})\n"
        (info.parent / "small_method.py").write_text(factory)
        path = f"{ROOT}:{info.parent}"
        cache = str(folder / "cache")  # stevedore keeps what it finds
        env = {"PYTHONPATH": path, "XDG_CACHE_HOME": cache}
        self.program = Program(self.config.state_dir, "--config-file", str(self.file), env=env)

    def paused(self) -> str:
        """Id of a build that paused at its step 'configure'."""
        self.trace.set("fail-configure")
        build = self.build()
        self.run_worker()
        assert self.service.build(build.id).state is BuildState.PAUSED
        return build.id


# where neither a lease ends nor a step is given up while a busy machine lets them wait
PATIENT = pytest.mark.parametrize("site", [{"lease": 60, "drain_timeout": "50"}], indirect=True, ids=["patient"])


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Small]:
    with Small(tmp_path, **getattr(request, "param", {"lease": 8})) as site:  # on a busy machine a short lease is lost
        yield site


@pytest.fixture
def start(site: Small) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the program; it is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **more: Any) -> subprocess.Popen[str]:
        started.append(site.program.start(*words, **more))
        return started[-1]

    yield begin
    for process in started:
        with process:
            process.kill()


def test_a_pause_is_exit_code_3_with_the_reason_the_log_and_the_ways_on(site: Small) -> None:
    build_id = site.paused()
    done = site.program.run("build", "resume", build_id[:6], "--wait", "-f", "json", expect=3)
    assert '"state": "paused"' in done.stdout
    assert "3/6 configure (attempt 2): failed" in done.stderr
    assert "configure was told to fail" in done.stderr
    assert "working on configure" in done.stderr  # the last lines of the log
    assert "Traceback" not in done.stderr
    shown = site.program.json("build", "show", build_id)
    assert (shown["error"], shown["hint"]) == ("configure was told to fail", "take the file away")
    assert shown["next"] == [f"imageflow build resume {build_id} --wait", f"imageflow build abort {build_id} --wait"]

    site.trace.unset("fail-configure")
    done = site.program.run("build", "resume", build_id, "--wait")
    assert "3/6 configure (attempt 3): done in" in done.stderr
    assert "fetch" not in done.stderr.replace("1/6 fetch: done", "")  # it went on, it did not begin again
    assert [step["attempt"] for step in site.program.json("build", "show", build_id)["steps"]] == [
        1,
        1,
        1,
        2,
        3,
        1,
        1,
        1,
    ]
    site.nothing_left()


def test_abort_waits_until_nothing_is_left(site: Small) -> None:
    build_id = site.paused()
    assert site.program.json("build", "abort", build_id, "--wait")["state"] == "aborted"
    site.nothing_left()
    again = site.program.run("build", "abort", build_id, expect=2)
    assert "has ended already: aborted" in again.stderr


def test_what_only_queues_says_so_when_nothing_serves(site: Small) -> None:
    build_id = site.paused()
    done = site.program.run("build", "resume", build_id)
    assert "nothing is serving" in done.stderr
    assert "imageflow serve" in done.stderr
    assert site.service.build(build_id).state is BuildState.QUEUED


def test_serve_tells_its_manager_runs_builds_and_drains(
    site: Small, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    site.trace.set("slow-boot", "30")
    build = site.build()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        site.program.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        serving = start("serve", "--log-json")
        assert manager.recv(100) == b"READY=1"
        assert [c.pid for c in site.service.conductors()] == [serving.pid]
        site.await_that(lambda: site.trace.executed(build.id) == ["fetch", "boot"])
        assert site.program.json("build", "cancel", build.id, "--wait")["state"] == "cancelled"
        site.nothing_left()
        serving.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
    out, err = serving.communicate(timeout=30)
    assert (serving.returncode, out) == (0, "")
    assert '"level": "info"' in err.splitlines()[0]
    assert site.service.conductors() == []


@PATIENT
def test_a_second_signal_stops_a_draining_conductor_at_once(
    site: Small, start: Callable[..., subprocess.Popen[str]]
) -> None:
    site.trace.set("slow-boot", "60")
    build = site.build()
    serving = start("serve")
    site.await_that(lambda: site.trace.executed(build.id) == ["fetch", "boot"])
    serving.send_signal(signal.SIGTERM)
    site.await_that(lambda: b"SigCgt" in Path(f"/proc/{serving.pid}/status").read_bytes() and serving.poll() is None)
    time.sleep(0.5)  # two signals of one kind that come together are one
    began = time.monotonic()
    serving.send_signal(signal.SIGTERM)
    serving.communicate(timeout=30)
    assert serving.returncode == 0
    assert time.monotonic() - began < 30, "it waited for its step"
    assert site.service.build(build.id).state in (BuildState.QUEUED, BuildState.RUNNING)
    site.trace.unset("slow-boot")
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED


def test_a_log_is_followed_from_before_its_first_line_across_a_takeover(
    site: Small, start: Callable[..., subprocess.Popen[str]]
) -> None:
    site.trace.set("slow-boot", "3")
    build = site.build()
    following = start("build", "log", build.id[:5], "--follow")
    assert following.stderr is not None
    assert following.stderr.readline() == f"imageflow: build {build.id} is queued\n"
    worker = site.worker()
    log = site.service.log_path(build.id)
    site.await_that(lambda: log.exists() and "working on boot" in log.read_text())
    worker.kill()
    worker.wait()
    site.run_worker()
    out, _ = following.communicate(timeout=30)
    assert following.returncode == 0
    assert out == log.read_text()
    assert out.count("working on boot") == 2
    last = site.program.run("build", "log", build.id, "-n", "2").stdout
    assert last.splitlines() == out.splitlines()[-2:]


def test_interrupting_a_wait_hands_the_build_back(site: Small, start: Callable[..., subprocess.Popen[str]]) -> None:
    build_id = site.paused()
    site.trace.unset("fail-configure")
    site.trace.set("slow-configure", "60")
    waiting = start("build", "resume", build_id, "--wait", "-f", "json")
    site.await_that(lambda: site.trace.executed(build_id).count("configure") == 2)
    waiting.send_signal(signal.SIGINT)
    time.sleep(1)  # it is draining now
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130, err
    assert "imageflow serve" in err
    assert '"state": "paused"' not in out
    assert site.service.conductors() == []
    site.trace.unset("slow-configure")
    site.run_worker()
    assert site.service.build(build_id).state is BuildState.SUCCEEDED
    site.nothing_left()


@PATIENT
def test_a_wait_does_not_count_on_the_conductor_of_another_wait(
    site: Small, start: Callable[..., subprocess.Popen[str]]
) -> None:
    first, second = site.paused(), site.paused()
    site.trace.unset("fail-configure")
    site.trace.set("slow-configure", "60")
    start("build", "resume", first, "--wait")
    log = site.service.log_path(first)
    site.await_that(lambda: log.read_text().count("working on configure") == 2)  # its slow child runs
    site.trace.unset("slow-configure")
    site.program.run("build", "resume", second, "--wait", seconds=40)
    assert site.service.build(second).state is BuildState.SUCCEEDED
    assert site.service.build(first).state is BuildState.RUNNING


@pytest.mark.parametrize(("answer", "state", "code"), [("c", BuildState.CANCELLED, 1), ("d", BuildState.QUEUED, 130)])
def test_ctrl_c_on_a_terminal_asks(
    site: Small, start: Callable[..., subprocess.Popen[str]], answer: str, state: BuildState, code: int
) -> None:
    build_id = site.paused()
    site.trace.unset("fail-configure")
    site.trace.set("slow-configure", "60")
    ours, theirs = pty.openpty()
    site.program.env["TERM"] = "xterm"
    waiting = start("build", "resume", build_id, "--wait", stdin=theirs, stderr=theirs)
    os.close(theirs)
    shown = _read_until(ours, "configure (attempt 2)")
    waiting.send_signal(signal.SIGINT)
    shown += _read_until(ours, "[d]etach, [c]ancel, [G]o on: ")
    os.write(ours, b"g\n")
    shown += _read_until(ours, "configure (attempt 2)")  # it is drawn again
    waiting.send_signal(signal.SIGINT)
    shown += _read_until(ours, "[d]etach, [c]ancel, [G]o on: ")
    os.write(ours, f"{answer}\n".encode())
    if answer == "d":
        _read_until(ours, "Ctrl-C stops it at once")
        waiting.send_signal(signal.SIGINT)
    _read_until(ours, "")
    waiting.wait(30)
    os.close(ours)
    assert waiting.returncode == code
    assert site.service.build(build_id).state is state
    assert "✔" in shown
    assert "working on configure" in shown


def _read_until(terminal: int, text: str) -> str:
    """What comes until `text` is there; until the end, for ''."""
    seen = b""
    while not text or text.encode() not in seen:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            assert not text, seen.decode(errors="replace")
            break
        seen += data
    return seen.decode(errors="replace")


def test_a_graph_is_drawn_with_live_states(site: Small) -> None:
    require("Graphviz", missing("dot"))
    site.paused()
    lines = site.program.run("build", "graph").stdout.splitlines()
    assert lines[0].startswith("‖ small ")
    assert lines[3].split() == ["✘", "configure", "failed", "configure"]
    rows = site.program.json("build", "graph")
    assert [row["state"] for row in rows] == ["succeeded"] * 2 + ["failed"] + ["pending"] * 3
    assert rows[1]["after"] == ["fetch"]
    assert site.program.run("build", "graph", "--svg").stdout.lstrip().startswith("<?xml")
    site.program.env["PATH"] = str(Path(sys.executable).parent)
    done = site.program.run("build", "graph", "--svg", expect=1)
    assert done.stderr == "imageflow: Graphviz is not installed\n(install graphviz, or use --dot)\n"


def test_many_builds_are_listed_newest_first_and_filtered(site: Small) -> None:
    builds = [site.build() for _ in range(4)]
    site.program.run("build", "cancel", builds[0].id)
    rows = site.program.json("build", "list")
    assert [row["id"] for row in rows] == [build.id for build in reversed(builds)]
    assert [row["id"] for row in site.program.json("build", "list", "--limit", "1")] == [builds[3].id]
    assert [row["id"] for row in site.program.json("build", "list", "--state", "cancelled")] == [builds[0].id]
    assert site.program.json("build", "list", "--image", "other") == []
    assert site.program.run("build", "list", "-f", "value", "-c", "id").stdout.split() == [r["id"] for r in rows]
    assert "error" in site.program.json("build", "list", "--long")[0]
    assert builds[3].id in site.program.run("build", "why").stdout  # the newest when none is named


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A state directory in which the tiny recipe was built, by a real disk-image-create."""
    require("root", os.geteuid() != 0)
    require("diskimage-builder's programs", missing("qemu-img", "sudo", "losetup"))
    program = Program(tmp_path_factory.mktemp("tiny") / "state")
    rows = program.json("build", "create", str(TINY), "--wait", seconds=240)
    assert [row["state"] for row in rows] == ["succeeded"]
    yield program


def test_a_finished_image_is_reused_at_once(tiny: Program) -> None:
    [row] = tiny.json("build", "create", str(TINY), "--wait")
    assert set(row) == {"id", "image", "state", "reason", "digest", "path", "verdict"}
    assert (row["image"], row["state"], row["verdict"]) == ("tiny", "succeeded", "reused")
    assert Path(row["path"]).stat().st_size > 0
    text = tiny.run("build", "create", str(TINY)).stdout
    assert text.startswith("✔ tiny: reused, build ")
    assert row["path"] in text
    [plan] = tiny.json("recipe", "plan", str(TINY))
    assert (plan["verdict"], plan["build"]) == ("reuse", row["id"])
    assert plan["seconds"] > 0


def test_an_image_is_where_its_store_is_now(tiny: Program, tmp_path: Path) -> None:
    moved = Program(tmp_path / "moved")
    shutil.copytree(tiny.state_dir, moved.state_dir)
    [row] = moved.json("build", "create", str(TINY))
    assert row["verdict"] == "reused"
    assert Path(row["path"]).is_relative_to(moved.state_dir / "images")
    assert moved.json("image", "show", "tiny")["path"] == row["path"]


def test_a_reused_image_costs_no_taskflow(tiny: Program) -> None:
    code = "import sys; from imageflow.cli.app import main; main(sys.argv[1:]); print(*sys.modules)"
    words = ["build", "create", str(TINY), "--wait"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=tiny.env, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & {"taskflow", "rich", "alembic"} == set()


def test_what_would_change_is_built_again_and_says_why(tiny: Program) -> None:
    [plan] = tiny.json("recipe", "plan", str(TINY), "--set", "publish.keep=5")
    assert plan["verdict"] in ("build", "reuse")
    [plan] = tiny.json("recipe", "plan", str(TINY), "--set", "dib.environment.DIB_JOURNAL_SIZE=8")
    assert plan["verdict"] == "build"
    assert "DIB_JOURNAL_SIZE" in plan["reason"]


def test_a_log_that_was_removed_is_said_to_be(tiny: Program) -> None:
    [row] = tiny.json("build", "create", str(TINY))
    log = Path(tiny.json("build", "show", row["id"])["log"])
    log.rename(log.with_suffix(".away"))
    assert f"{log} was removed" in tiny.run("build", "log", row["id"], expect=2).stderr
    log.with_suffix(".away").rename(log)


def test_a_queued_build_says_how_it_is_begun(tiny: Program) -> None:
    done = tiny.run("build", "create", str(TINY), "--force", "-f", "json")
    assert "nothing is serving" in done.stderr
    assert '"state": "queued"' in done.stdout
    newest = tiny.json("build", "list", "--limit", "1")[0]["id"]
    assert tiny.json("build", "cancel", newest)["state"] == "cancelled"


def test_an_image_is_shown_verified_and_exported(tiny: Program, tmp_path: Path) -> None:
    [row] = tiny.json("image", "list")
    assert row["image"] == "tiny"
    shown = tiny.json("image", "show", row["digest"][:8])
    assert shown["digest"] == row["digest"]
    assert shown["artifacts"][0]["format"] == "qcow2"
    assert tiny.json("image", "verify", "tiny")["state"] == "stored"
    out = tiny.json("image", "export", f"tiny@{row['digest'][:8]}", str(tmp_path / "out.qcow2"))
    assert Path(out["path"]).stat().st_size == shown["artifacts"][0]["size"] == out["size"]
    assert all(thing["closed"] for thing in tiny.json("resource", "list", "--all"))
    assert tiny.json("resource", "reap") == []


def test_a_corrupt_image_is_found_and_not_reused_and_a_deleted_one_is_gone(tiny: Program) -> None:
    path = Path(tiny.json("image", "show", "tiny")["path"])
    with contextlib.suppress(OSError):
        path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    done = tiny.run("image", "verify", "tiny", expect=1)
    assert path.name in done.stderr
    done = tiny.run("image", "export", "tiny", str(path.parent.parent / "out"), expect=2)
    assert "is corrupt" in done.stderr
    assert tiny.json("recipe", "plan", str(TINY))[0]["verdict"] == "build"
    assert tiny.json("image", "delete", "tiny")["state"] == "deleted"
    assert not path.exists()
    assert tiny.json("image", "list") == []
