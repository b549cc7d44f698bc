"""Consoles fit for a terminal, the way into a machine, stages of a plan, and how to boot what came out."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imageflow.builds.wanted import Plan, PlanVerdict, StagePlan, StageVerdict
from imageflow.cli.console import Cleaner, last_lines
from imageflow.cli.machines import ssh_argv
from imageflow.cli.recipes import stage_lines
from imageflow.cli.summary import boot_command, outcome_lines
from imageflow.guest import Access
from imageflow.model import Artifact, Build, BuildState, SubmissionVerdict, Version

BOOT = (
    b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01HSeaBIOS (version 1.16)\r\n"
    b"[    0.000000] Linux version 6.1\r\r\n"
    b"\x1b[0;32m  OK  \x1b[0m Reached target \x1b[0;1;39mBasic\x1b[0m.\n"
    b"\x1b]0;title\x07\x1b(B\x1b)0unpacking 10%\runpacking 20%\r\x07caf\xc3\xa9 \xff\x9b31m\x1b7\nlogin: "
)
CLEAN = (
    "SeaBIOS (version 1.16)\n[    0.000000] Linux version 6.1\n  OK   Reached target Basic.\n"
    "unpacking 10%\nunpacking 20%\ncafé \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}31m\nlogin: "
)


def test_a_console_on_a_terminal_has_no_escapes_left() -> None:
    cleaner = Cleaner()
    assert cleaner.feed(BOOT) + cleaner.feed(b"") == CLEAN


@pytest.mark.parametrize("seed", range(20))
def test_wherever_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    cleaner, text, rest = Cleaner(), "", BOOT
    while rest:
        size = chance.randint(1, 9)
        text, rest = text + cleaner.feed(rest[:size]), rest[size:]
    assert text + cleaner.feed(b"") == CLEAN


def test_what_never_becomes_an_escape_is_not_waited_for_for_ever() -> None:
    cleaner = Cleaner()
    shown = cleaner.feed(b"\x1b]0;" + b"x" * 9000)
    assert len(shown) > 4000
    assert "\x1b" not in shown + cleaner.feed(b"")


@pytest.mark.parametrize(
    ("data", "count", "expected"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n", 5, b"a\n"),
        (b"", 1, b""),
        (b"\n\n", 1, b"\n"),
    ],
)
def test_last_lines(data: bytes, count: int, expected: bytes) -> None:
    assert last_lines(data, count) == expected


def test_ssh_knows_nothing_but_this_machine(tmp_path: Path) -> None:
    """As OpenSSH itself understands it."""
    folder = tmp_path / "a folder of 100%"
    access = Access("127.0.0.1", 2222, "debian", folder / "client_key", folder / "known_hosts")
    folder.mkdir()
    access.key.touch()
    argv = ssh_argv(access, ["ls", "-l"])
    assert argv[-4:] == ["--", "127.0.0.1", "ls", "-l"]
    said = subprocess.check_output([argv[0], "-G", *argv[1:-4], argv[-3]], text=True)
    options = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    assert options["user"] == "debian"
    assert options["port"] == "2222"
    assert options["identitiesonly"] == "yes"
    assert options["stricthostkeychecking"] in ("true", "yes")
    assert options["forwardagent"] == "no"
    assert options["identityagent"] == "none"
    assert "100%" in options["userknownhostsfile"]
    assert [line for line in said.splitlines() if line.startswith("identityfile ")] == [
        f"identityfile {access.key}".replace("%", "%%")  # -G shows it before it is read
    ]


BUILD = Build(
    id="0123456789ab",
    image="web",
    method="boot",
    state=BuildState.SUCCEEDED,
    reason="first build of web",
    key="k" * 64,
    flow="f",
    created=100.0,
    recipe={"machine": {"memory": 512, "firmware": "bios", "user": "root"}},
)
DISK = Artifact("web.qcow2", "qcow2", 244318208, "d" * 64, 4 << 30)
VERSION = Version(1, "web", BUILD.id, BUILD.key, "d" * 64, 200.0, "directory", "/i/d/web.qcow2", (DISK,))


def test_an_image_made_on_a_machine_boots_from_its_disk() -> None:
    command = boot_command(BUILD, VERSION) or ""
    assert "-kernel" not in command
    assert "-m 512" in command
    assert "-bios" not in command
    uefi = replace(BUILD, recipe={"machine": {"memory": 512, "firmware": "uefi"}})
    assert "OVMF" in (boot_command(uefi, VERSION) or "")


def test_an_image_in_glance_is_booted_by_its_cloud() -> None:
    stored = replace(VERSION, store="glance", path="ceb856ef-91a4-414f-b1c9-cbaf7d64a290")
    command = boot_command(BUILD, stored) or ""
    assert command.startswith("openstack server create ")
    assert "--image ceb856ef-91a4-414f-b1c9-cbaf7d64a290 " in command
    second = replace(stored, artifacts=(Artifact("web.tar", "tar", 1, "d" * 64), DISK))
    assert boot_command(BUILD, second) is None  # nobody knows the disk's own image


def test_a_paused_build_says_how_to_log_in() -> None:
    paused = replace(BUILD, state=BuildState.PAUSED, error="a command failed")
    text = "\n".join(outcome_lines(paused, None, SubmissionVerdict.CREATED, "", ["imageflow build ssh 0123456789ab"]))
    assert "log in    imageflow build ssh 0123456789ab\n" in text
    assert text.index("log in") < text.index("go on")


def test_the_stages_of_a_plan() -> None:
    stages = (
        StagePlan("fetch-base", "the base", StageVerdict.REUSED, "its layer is here"),
        StagePlan("configure-01-packages", "packages nginx", StageVerdict.RUN, "it changed, or what it uses did"),
    )
    plan = Plan("web", "boot", "k", PlanVerdict.BUILD, "", None, {}, (), None, stages)
    assert list(stage_lines(plan)) == [
        "reused    the base        its layer is here",
        "will run  packages nginx  it changed, or what it uses did",
    ]
