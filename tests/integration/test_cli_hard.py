"""The program in hands that are careless: odd arguments, closed streams, foreign terminals, strange folders."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.small.program import ROOT, Program

RECIPES = ROOT / "tests/recipes"
TINY = str(RECIPES / "tiny.yaml")
NOT_TEXT = "\udcff"  # how Python shows an argument that is the byte FF


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "state")


def complained(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, which is neither a traceback nor nothing."""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(("imageflow: ", "usage: "))
    return done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["help", "nonsense"],
        ["help", "build", "nonsense"],
        ["image", "show", NOT_TEXT],
        ["image", "list", NOT_TEXT],
        ["build", "list", "--image", NOT_TEXT],
        ["build", "create", TINY, NOT_TEXT],
        ["build", "create", TINY, "--set", f"name={NOT_TEXT}"],
        ["build", "log", "-n", "0"],
        ["build", "list", "--limit", "many"],
        ["image", "export", "tiny", ""],
    ],
    ids=lambda words: " ".join(words[:2]) + f" {words[-1]!a}",
)
def test_a_word_that_means_nothing_is_bad_input(program: Program, words: list[str]) -> None:
    complained(program.run(*words, expect=2))


def test_a_huge_number_of_builds_is_all_of_them(program: Program) -> None:
    assert program.json("build", "list", "--limit", "9" * 30) == []


def test_a_wrong_column_changes_nothing(program: Program) -> None:
    said = complained(program.run("build", "create", TINY, "-c", "nope", expect=2))
    assert "columns: id, image, state, reason, digest, path, verdict" in said
    assert program.json("build", "list") == []
    [row] = program.json("build", "create", TINY)
    complained(program.run("build", "cancel", row["id"], "-c", "nope", expect=2))
    assert program.json("build", "show", row["id"])["state"] == "queued"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(program: Program, closed: str) -> None:
    line = f'"$@" {closed}'
    argv = ["bash", "-c", line, "bash", *program.argv, "build", "list", "-f", "json"]
    done = subprocess.run(argv, env=program.env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "[]\n")


def test_output_that_nobody_can_store_fails_with_its_name(program: Program) -> None:
    with open("/dev/full", "w") as full:
        argv = [*program.argv, "build", "list", "-f", "json"]
        done = subprocess.run(argv, env=program.env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert complained(done) == "imageflow: standard output can't be written: No space left on device\n"


def test_a_terminal_without_unicode_is_no_bug(program: Program) -> None:
    program.env.update(LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "there is no build" in complained(program.run("build", "show", expect=2))
    assert "usage: imageflow [options] COMMAND \\u2026" in program.run("--help").stdout


@pytest.mark.parametrize(
    ("folder", "bad"), [("My Recipes", "' '"), ("$(touch it)", "' '"), ("a:b", "':'"), ("it's", '"\'"')]
)
def test_elements_where_a_shell_would_trip_over_their_folder_are_refused(
    program: Program, tmp_path: Path, folder: str, bad: str
) -> None:
    shutil.copytree(RECIPES, tmp_path / folder)
    said = complained(program.run("build", "create", str(tmp_path / folder / "tiny.yaml"), expect=2))
    assert f"can't use elements in {tmp_path / folder}/elements: the path contains {bad}" in said
    assert not program.state_dir.exists()


def test_a_folder_whose_name_is_not_text_is_refused(program: Program, tmp_path: Path) -> None:
    shutil.copytree(RECIPES, tmp_path / NOT_TEXT)
    said = complained(program.run("build", "create", os.fspath(tmp_path / NOT_TEXT / "tiny.yaml"), expect=2))
    assert "is not text in UTF-8" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[conductor]\nmax_builds = many\n", "max_builds from {file} is not valid"),
        (b"[conductor]\nlease = nan\n", "[conductor] lease can't be nan"),
        (b"[builds]\ntimeout = inf\n", "[builds] timeout can't be inf"),
        (b"\xff\xfe\n", "{file}: not text in UTF-8"),
        (b"[store]\ndriver = nope\n", "there is no store driver 'nope'"),
        (b"[store]\ndriver = glance\n[glance]\nstores = fast, archive\n", "an upload goes into one store"),
        (b"[database]\nconnection = nonsense://me:pass-4711@host/db\n", "'nonsense' is not supported"),
    ],
)
def test_a_wrong_configuration_names_the_place_and_keeps_passwords(
    program: Program, tmp_path: Path, text: bytes, said: str
) -> None:
    file = tmp_path / "imageflow.conf"
    file.write_bytes(text)
    program.argv += ["--config-file", str(file)]
    shown = complained(program.run("image", "export", "tiny", str(tmp_path / "out"), expect=2))
    assert said.format(file=file) in shown
    assert "pass-4711" not in shown


@pytest.mark.parametrize("who", ["[store]\ndriver = glance", "[compute]\ndriver = nova"])
def test_nothing_is_served_where_the_cloud_is_not_configured(program: Program, tmp_path: Path, who: str) -> None:
    file = tmp_path / "imageflow.conf"
    (tmp_path / "clouds.yaml").write_text("clouds: {site: {auth: {auth_url: 'http://127.0.0.1:9/v3'}}}\n")
    file.write_text(f"{who}\n[openstack]\ncloud = sight\nclouds_yaml = {tmp_path}/clouds.yaml\n")
    done = program.run("--config-file", str(file), "serve", "--listen", "none", expect=2)
    assert f"there is no cloud 'sight' in {tmp_path}/clouds.yaml" in complained(done)


def test_nobody_waits_long_for_a_cloud_that_is_away(program: Program, tmp_path: Path) -> None:
    """Those that build, as patiently as [openstack] patience says, would ask for five minutes."""
    with socket.socket() as bound:  # nobody listens at its port
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v3"
        auth = (
            f"{{auth_url: '{url}', username: u, password: p, project_name: p, user_domain_id: d, project_domain_id: d}}"
        )
        (tmp_path / "clouds.yaml").write_text(f"clouds: {{site: {{auth: {auth}}}}}\n")
        file = tmp_path / "imageflow.conf"
        file.write_text(f"[store]\ndriver = glance\n[openstack]\ncloud = site\nclouds_yaml = {tmp_path}/clouds.yaml\n")
        done = program.run("--config-file", str(file), "resource", "reap", expect=1, seconds=90)
    assert "Connection refused" in complained(done)


def test_a_configuration_that_is_a_folder_is_bad_input(program: Program, tmp_path: Path) -> None:
    said = complained(program.run("--config-file", str(tmp_path), "build", "list", expect=2))
    assert f"{tmp_path}: Is a directory" in said


def test_an_option_that_does_not_exist_is_told_and_does_no_harm(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "imageflow.conf"
    file.write_text("[builds]\npause_tll = 5\npause_ttl = 5\n")
    done = program.run("--config-file", str(file), "build", "list", "-f", "json")
    assert done.stdout == "[]\n"
    assert complained(done).startswith(f"imageflow: configuration: there is no option [builds] pause_tll ({file})")
    assert "pause_ttl" not in done.stderr


def test_a_state_directory_that_is_a_file_is_bad_input(program: Program) -> None:
    program.state_dir.write_text("")
    said = complained(program.run("build", "list", expect=2))
    assert f"{program.state_dir}/imageflow.db can't be opened: File exists" in said
    assert "--state-dir" in said


def test_a_pause_is_told_without_a_traceback_and_joining_it_is_no_success(program: Program) -> None:
    program.env["OS_DIB__MIN_FREE"] = "1e9"  # no machine has as many GiB; who is not root is paused for that
    done = program.run("build", "create", TINY, "--wait", "-f", "json", expect=3)
    assert "Traceback" not in done.stderr
    [row] = program.json("build", "create", TINY, expect=3)
    assert (row["state"], row["verdict"]) == ("paused", "joined")
    assert program.json("build", "abort", row["id"], "--wait")["state"] == "aborted"


def test_a_terminal_that_can_only_append_gets_lines(program: Program) -> None:
    program.env.update(OS_DIB__MIN_FREE="1e9", TERM="dumb")
    ours, theirs = pty.openpty()
    with program.start("build", "create", TINY, "--wait", stdin=theirs, stdout=theirs, stderr=theirs) as waiting:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(ours, 65536):
                seen += data
    os.close(ours)
    assert waiting.returncode == 3
    assert b"1/7 Prepare the work folder: failed" in seen
    assert b"\x1b" not in seen
