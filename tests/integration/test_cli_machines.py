"""The machine of a build from the command line: a real one, on the tiny guest."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow import config as configuration
from imageflow.compute import MachineSpec, Source
from imageflow.flight.record import Record
from imageflow.guest import keys, seed
from imageflow.host.control import Control
from imageflow.model import Build, BuildState
from imageflow.persistence import builds
from imageflow.service import Service
from tests.guests import tiny
from tests.small.program import Program

ID = "0123456789ab"
SPEC = MachineSpec(vcpus=1, memory=192)
RECIPE = {"name": "web", "method": "boot", "machine": {"vcpus": 1, "memory": 192, "firmware": "bios", "user": "root"}}


class Site:
    """A state directory with one paused build, and its machine."""

    def __init__(self, state: Path) -> None:
        self.config = configuration.load(state_dir=str(state))
        self.service = Service.open(self.config)
        self.program = Program(state)
        self.add(ID)

    def add(self, build_id: str, **values: Any) -> Build:
        known = {"host": self.config.host, "recipe": RECIPE, "state": BuildState.PAUSED, "error": "a command failed"}
        known |= {"method": "boot", "started": time.time(), "paused": time.time()}
        made = Build(
            build_id, "web", reason="", key=build_id * 5, flow=build_id, created=time.time(), **(known | values)
        )
        with self.service.database.begin() as conn:
            return builds.insert(conn, made, claim=False)

    def change(self, **values: Any) -> None:
        """What becomes of the build."""
        with self.service.database.begin() as conn:
            assert builds.change(conn, ID, **values)

    def start(self, role: str = "main") -> None:
        """Boot a machine of the build, and know its host key."""
        made = keys.make(self.config.builds_dir / ID / ("ssh" if role == "main" else "ssh-verify"))
        self.service.compute.ensure(
            f"{ID}-{role}",
            SPEC,
            build_id=ID,
            control=Control(),
            log=print,
            disk=Source(str(tiny.disk())),
            seed=seed.make(made, instance_id=f"{ID}-{role}"),
        )
        keys.expect(made.known_hosts, made.host_public)
        end = time.monotonic() + 60
        while b"GUEST-READY" not in self.service.compute.console(f"{ID}-{role}") and time.monotonic() < end:
            time.sleep(0.1)

    def end(self) -> None:
        for name in self.service.compute.list():
            self.service.compute.delete(name)
        self.service.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One machine for all of this module; its folder has a name that a shell or ssh would trip over."""
    site = Site(tmp_path_factory.mktemp("a machine's 100%") / "state")
    site.start()
    yield site
    site.end()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Site]:
    """A build whose machine was never started."""
    site = Site(tmp_path / "state")
    yield site
    site.end()


# -- ssh ---------------------------------------------------------------------------------------------


def test_a_command_in_the_machine(site: Site) -> None:
    done = site.program.run("build", "ssh", ID[:5], "--", "echo one two; echo three >&2; exit 7", expect=7)
    assert (done.stdout, done.stderr) == ("one two\n", "three\n")
    done = site.program.run("build", "ssh", ID, "--", "ls", "-d", "--", "/root")
    assert done.stdout == "/root\n"


def test_a_shell_in_the_machine(site: Site) -> None:
    process = site.program.start("build", "ssh", stdin=subprocess.PIPE)
    out, err = process.communicate("hostname; exit 3\n", timeout=60)
    assert (out, process.returncode) == ("imageflow\n", 3), err


def test_another_host_key_is_not_accepted(site: Site, tmp_path: Path) -> None:
    known = site.config.builds_dir / ID / "ssh/known_hosts"
    right = known.read_bytes()
    keys.expect(known, keys.make(tmp_path / "other").host_public)
    try:
        done = site.program.run("build", "ssh", ID, "--", "true", expect=255)
    finally:
        known.write_bytes(right)
    assert "verification failed" in done.stderr


@pytest.mark.parametrize(("missing", "words"), [("client_key", "the key of"), ("known_hosts", "has not been reached")])
def test_without_its_keys(site: Site, missing: str, words: str) -> None:
    file = site.config.builds_dir / ID / "ssh" / missing
    file.rename(f"{file}.away")
    try:
        done = site.program.run("build", "ssh", ID, expect=2)
    finally:
        Path(f"{file}.away").rename(file)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_what_a_paused_build_says(site: Site) -> None:
    assert site.program.json("build", "show", ID)["next"] == [
        f"imageflow build ssh {ID}",
        f"imageflow build resume {ID} --wait",
        f"imageflow build abort {ID} --wait",
    ]


def test_no_throw_away_machine(site: Site) -> None:
    done = site.program.run("build", "ssh", ID, "--verify", expect=2)
    assert "the throw-away machine" in done.stderr
    assert f"imageflow build ssh {ID})" in done.stderr


# -- no machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words", "way_out"),
    [
        ({"state": BuildState.QUEUED, "started": None}, "is not running yet", "build show"),
        ({"state": BuildState.RUNNING}, "is not running yet", "try again"),
        ({"state": BuildState.PAUSED}, "is not there", "build resume"),
        ({"state": BuildState.FAILED, "ended": 5.0}, "is gone: the build has ended (failed)", "on_failure"),
        (
            {"state": BuildState.SUCCEEDED, "ended": 5.0, "digest": "d" * 64},
            "is gone",
            "imageflow image show dddddddddddd",
        ),
        ({"host": "elsewhere"}, "runs on elsewhere", "ssh elsewhere"),
        ({"method": "dib", "recipe": {"dib": {}}}, "has no machine: its method is dib", "build log"),
    ],
)
def test_a_build_without_a_machine(empty: Site, values: dict[str, Any], words: str, way_out: str) -> None:
    empty.add("fedcba987654", **values)
    done = empty.program.run("build", "ssh", "fed", expect=2)
    message, hint = done.stderr.splitlines()
    assert words in message
    assert way_out in hint
    assert not [line for line in empty.program.json("build", "show", "fed")["next"] if "ssh" in line]


def test_a_machine_that_is_off(empty: Site) -> None:
    empty.start()
    empty.service.compute.stop(f"{ID}-main", Control())
    done = empty.program.run("build", "ssh", ID, expect=2)
    assert "is powered off" in done.stderr
    assert f"imageflow build resume {ID}" in done.stderr
    assert "Linux version" in empty.program.run("build", "console", ID).stdout


# -- console -----------------------------------------------------------------------------------------


def on_a_terminal(site: Site, *words: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = site.program.start(*words, stdout=theirs)
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:  # the terminal's other end is closed
        pass
    os.close(ours)
    process.communicate(timeout=30)
    return text.decode()


def test_the_console_as_it_is(site: Site) -> None:
    raw = site.service.compute.console(f"{ID}-main")
    argv = [*site.program.argv, "build", "console", ID]
    assert subprocess.check_output(argv, env=site.program.env) == raw
    last = subprocess.check_output([*argv, "--lines", "2"], env=site.program.env)
    assert raw.endswith(last)
    assert last.count(b"\n") in (1, 2)


def test_the_console_on_a_terminal(site: Site) -> None:
    raw = site.service.compute.console(f"{ID}-main")
    assert b"\x1b" in raw, "the firmware clears the screen"
    shown = on_a_terminal(site, "build", "console", ID)
    assert "\x1b" not in shown
    assert "Linux version" in shown
    assert "\x1b" in on_a_terminal(site, "build", "console", ID, "--raw")


def test_the_console_as_it_grows(site: Site) -> None:
    process = site.program.start("build", "console", ID, "--follow", "-n", "1")
    assert process.stdout is not None and process.stderr is not None
    assert "is paused: a command failed" in process.stderr.readline()  # from now on it follows
    site.program.run("build", "ssh", ID, "--", "echo seen on the console > /dev/console")
    lines = []
    while "seen on the console" not in (line := process.stdout.readline()):
        assert line, "it ended"
        lines.append(line)
    site.change(to=BuildState.ABORTED)
    try:
        _, err = process.communicate(timeout=30)
    finally:
        site.change(to=BuildState.PAUSED)
    assert process.returncode == 0, err
    assert not [line for line in lines if "Linux version" in line]


def test_a_console_that_nobody_recorded(empty: Site) -> None:
    done = empty.program.run("build", "console", ID, expect=2)
    assert "--follow" in done.stderr
    empty.change(to=BuildState.ABORTED)
    assert "build log" in empty.program.run("build", "console", ID, "--follow", expect=2).stderr


# -- screen ------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_screen_now(site: Site, tmp_path: Path) -> None:
    argv = [*site.program.argv, "build", "screenshot", ID]
    env = site.program.env
    first = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert first.stdout == f"{ID}.png (now)\n"
    picture = tmp_path / f"{ID}.png"
    assert picture.read_bytes().startswith(PNG)
    picture.write_bytes(b"mine")
    again = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert picture.read_bytes() == b"mine"
    subprocess.run([*argv, "--force"], env=env, cwd=tmp_path, capture_output=True, check=True)
    assert picture.read_bytes().startswith(PNG)
    assert subprocess.check_output([*argv, "-"], env=env).startswith(PNG)
    wrong = site.program.run("build", "screenshot", ID, str(tmp_path / "no/folder.png"), expect=1)
    assert "No such file" in wrong.stderr
    assert "can't be shown on a terminal" in on_a_terminal_with_errors(site, "build", "screenshot", ID, "-")


def on_a_terminal_with_errors(site: Site, *words: str) -> str:
    ours, theirs = pty.openpty()
    process = site.program.start(*words, stdout=theirs)
    _, err = process.communicate(timeout=30)
    os.close(theirs)
    os.close(ours)
    return err


def test_a_screen_that_nobody_recorded(empty: Site) -> None:
    done = empty.program.run("build", "screenshot", ID, expect=2)
    assert "no screenshot of it was recorded" in done.stderr


def test_what_was_recorded(empty: Site, tmp_path: Path) -> None:
    record = Record(empty.config.records_dir / ID, f"{ID}-main", every=0.0)
    record.console(b"Kernel panic\n", 0)
    record.screenshot(lambda: PNG + b"first")
    record.end(lambda: PNG + b"last")
    empty.change(to=BuildState.ABORTED)
    assert empty.program.run("build", "console", ID).stdout == "Kernel panic\n"
    assert empty.program.run("build", "console", ID, "--follow").stdout == "Kernel panic\n"
    to = tmp_path / "x.png"
    said = empty.program.run("build", "screenshot", ID, str(to)).stdout
    assert re.fullmatch(rf"{re.escape(str(to))} \(recorded (just now|\d+ s ago)\)\n", said)
    assert to.read_bytes() == PNG + b"last"
    assert empty.program.run("build", "console", ID, "--verify", expect=2)


# -- layers ------------------------------------------------------------------------------------------


def test_layers(empty: Site) -> None:
    layers = empty.service.compute.layers
    base = layers.add_base("b" * 64, tiny.disk(), "qcow2", title="the base", build_id=ID, control=Control())
    other = layers.add_base("c" * 64, tiny.disk(), "qcow2", title="old", build_id="feeeeeeeeeed", control=Control())
    rows = {row["title"]: row for row in empty.program.json("layer", "list")}
    assert rows["the base"]["layer"] == base.key
    assert rows["the base"]["held by"] == [ID]
    assert rows["the base"]["size"] == dataclasses.replace(base).size
    assert rows["old"]["held by"] == ["feeeeeeeeeed"]
    assert empty.program.json("layer", "collect") == []
    [gone] = empty.program.json("layer", "collect", "--all")
    assert gone["layer"] == other.key, "its build is none that we know"
    assert [row["title"] for row in empty.program.json("layer", "list")] == ["the base"]
    empty.change(to=BuildState.ABORTED)
    assert empty.program.run("layer", "collect", "--all").stdout.count("the base") == 1
    assert "no layers" in empty.program.run("layer", "list").stderr
