"""What --wait shows: plain lines, the picture on a terminal, the summary."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from imageflow.builds.estimate import Estimate
from imageflow.cli.graph import as_text, dot
from imageflow.cli.lines import LineView
from imageflow.cli.live import LiveView
from imageflow.cli.summary import boot_command, outcome_lines
from imageflow.cli.view import BuildView
from imageflow.cli.wait import exit_code, settled
from imageflow.model import Artifact, Build, BuildState, Step, StepState, SubmissionVerdict, Version, Wish
from imageflow.service import Graph

BUILD = Build(
    id="0123456789ab",
    image="web",
    method="dib",
    state=BuildState.RUNNING,
    reason="first build of web",
    key="k" * 64,
    flow="f",
    created=100.0,
    started=101.0,
    recipe={"dib": {"elements": ["debian-minimal", "vm"]}},
)
DISK = Artifact("web.qcow2", "qcow2", 244318208, "d" * 64, 4 << 30)
VERSION = Version(1, "web", BUILD.id, BUILD.key, "d" * 64, 200.0, "directory", "/i/d/web.qcow2", (DISK,), packages=279)


def step(name: str, state: StepState, attempt: int = 1, **more: Any) -> Step:
    return Step(BUILD.id, name, attempt, 0, state, started=101.0, **more)


def picture(build: Build, *steps: Step, estimate: Estimate | None = None, log: tuple[str, ...] = ()) -> BuildView:
    latest = {s.name: s for s in steps}
    names = {"fetch": "Fetch it", "make": "Make it"}
    return BuildView(build, [(name, title, latest.get(name)) for name, title in names.items()], estimate, log)


def test_lines_say_each_thing_once_and_in_order() -> None:
    out = io.StringIO()
    view = LineView(out)
    done = step("fetch", StepState.SUCCEEDED, ended=103.0)
    half = step("make", StepState.RUNNING, progress=0.51, message="root.d")
    pictures = [
        picture(replace(BUILD, state=BuildState.QUEUED)),
        picture(BUILD, step("fetch", StepState.RUNNING)),
        picture(BUILD, step("fetch", StepState.RUNNING, progress=0.05)),
        picture(BUILD, done, half, estimate=Estimate(0.5, 9.0, 8.0)),
        picture(BUILD, done, replace(half, progress=0.55)),
        picture(BUILD, done, step("make", StepState.FAILED, ended=111.0, error="no space")),
        picture(BUILD, done, step("make", StepState.SUCCEEDED, attempt=2, ended=104.0)),
        picture(replace(BUILD, state=BuildState.SUCCEEDED), done, step("make", StepState.SUCCEEDED, 2, ended=104.0)),
    ]
    for shown in pictures:
        view.show([shown])
        view.show([shown])
    assert [line.removeprefix("web 0123456789ab: ") for line in out.getvalue().splitlines()] == [
        "queued",
        "running",
        "1/2 Fetch it …",
        "1/2 Fetch it: done in 2.0 s",
        "2/2 Make it …",
        "2/2 Make it: 51% root.d, about 8.0 s left",
        "2/2 Make it: failed after 10 s: no space",
        "2/2 Make it (attempt 2): done in 3.0 s",
        "succeeded",
    ]


def test_the_picture_on_a_terminal_shows_steps_progress_and_log() -> None:
    out = io.StringIO()
    view = LiveView(out, Console(file=out, force_terminal=True, width=100, height=30, color_system=None))
    done = step("fetch", StepState.SUCCEEDED, ended=103.0)
    running = step("make", StepState.RUNNING, progress=0.43, message="root.d")
    log = ("2026-01-01T00:00:00Z [make] Unpacking [bold]libc6[/bold]",)
    view.show([picture(BUILD, done, running, estimate=Estimate(0.4, 66.0, 45.0), log=log)])
    view.close()
    text = out.getvalue()
    for part in ("web", BUILD.id, "running", "about 1:06 left", "✔ Fetch it", "2.0 s", "▶ Make it", "43%", "root.d"):
        assert part in text, part
    assert "│ [make] Unpacking [bold]libc6[/bold]" in text  # a log is no markup
    assert "about 45 s left" in text


def test_many_builds_are_folded() -> None:
    out = io.StringIO()
    view = LiveView(out, Console(file=out, force_terminal=True, width=100, height=30, color_system=None))
    over = replace(BUILD, id="ffffffffffff", state=BuildState.SUCCEEDED, ended=110.0)
    view.show([picture(over, step("fetch", StepState.SUCCEEDED, ended=103.0)), picture(BUILD)])
    view.close()
    text = out.getvalue()
    assert text.count("Fetch it") == text.count("ffffffffffff")  # the steps of one of the two in every frame


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([BuildState.SUCCEEDED, BuildState.SUCCEEDED], 0),
        ([BuildState.SUCCEEDED, BuildState.PAUSED], 3),
        ([BuildState.PAUSED, BuildState.FAILED], 1),
        ([BuildState.CANCELLED], 1),
        ([BuildState.ABORTED], 1),
        ([BuildState.RUNNING, BuildState.SUCCEEDED], 130),
        ([BuildState.RUNNING, BuildState.PAUSED], 3),
    ],
)
def test_exit_codes(states: list[BuildState], code: int) -> None:
    assert exit_code([replace(BUILD, state=state) for state in states]) == code


def test_an_abort_that_was_asked_for_is_a_success() -> None:
    assert exit_code([replace(BUILD, state=BuildState.ABORTED)], BuildState.ABORTED) == 0
    assert exit_code([replace(BUILD, state=BuildState.SUCCEEDED)], BuildState.ABORTED) == 1


def test_a_paused_build_with_a_wish_is_not_at_rest() -> None:
    paused = replace(BUILD, state=BuildState.PAUSED)
    assert settled(paused)
    assert not settled(replace(paused, wish=Wish.ABORT))


def test_a_partitioned_image_boots_from_its_disk_and_stays_as_it_is() -> None:
    command = boot_command(BUILD, VERSION)
    assert command is not None
    assert command.startswith("qemu-system-x86_64 ")
    assert " -snapshot -drive file=/i/d/web.qcow2,if=virtio,format=qcow2" in command
    assert "-kernel" not in command


def test_a_file_system_image_boots_with_its_kernel() -> None:
    build = replace(BUILD, recipe={"dib": {"elements": ["debian-minimal", "baremetal"], "arch": "arm64"}})
    kernel, initrd = Artifact("web.vmlinuz", "kernel", 1, "e" * 64), Artifact("web.initrd", "initrd", 1, "f" * 64)
    command = boot_command(build, replace(VERSION, artifacts=(DISK, kernel, initrd)))
    assert command is not None
    assert command.startswith("qemu-system-aarch64 ")
    assert "-kernel /i/d/web.vmlinuz -initrd /i/d/web.initrd -append 'root=LABEL=cloudimg-rootfs" in command
    assert boot_command(build, VERSION) is None  # no kernel: nothing that we know how to boot


def test_a_tarball_does_not_boot() -> None:
    assert boot_command(BUILD, replace(VERSION, artifacts=(Artifact("web.tar", "tar", 1, "d" * 64),))) is None


def test_the_summary_of_a_paused_build_says_how_to_go_on() -> None:
    paused = replace(BUILD, state=BuildState.PAUSED, error="no space left", hint="free some")
    text = "\n".join(outcome_lines(paused, None, SubmissionVerdict.CREATED, "first build"))
    for part in ("paused", "no space left", "free some", f"build resume {BUILD.id} --wait", f"build abort {BUILD.id}"):
        assert part in text


def test_the_summary_of_a_reused_build_names_the_image() -> None:
    done = replace(BUILD, state=BuildState.SUCCEEDED, ended=161.0)
    text = "\n".join(outcome_lines(done, VERSION, SubmissionVerdict.REUSED, "already built"))
    for part in (
        "web: reused, build 0123456789ab",
        "already built",
        f"sha256:{'d' * 64}",
        "233 MiB",
        "279",
        "/i/d/web.qcow2",
    ):
        assert part in text


def diamond() -> Graph:
    names = ("start", "left", "right", "end")
    states = (StepState.SUCCEEDED, StepState.RUNNING, StepState.FAILED, StepState.PENDING)
    nodes = tuple((name, f'{name} "it"', state) for name, state in zip(names, states, strict=True))
    return Graph(BUILD, nodes, (("start", "left"), ("start", "right"), ("left", "end"), ("right", "end")))


def test_a_graph_as_text_says_what_is_not_in_a_row() -> None:
    lines = list(as_text(diamond()))
    assert lines[0] == "▶ web 0123456789ab running"
    assert [line.strip() for line in lines[1:]] == [
        '✔ start  succeeded  start "it"',
        '▶ left   running    left "it"',
        '✘ right  failed     right "it"  after start',
        '· end    pending    end "it"  after left, right',
    ]


def test_a_graph_as_dot_is_quoted() -> None:
    text = "\n".join(dot(diamond()))
    assert '"left" -> "end";' in text
    assert r'label="left \"it\"\nrunning"' in text


def test_the_views_say_what_a_build_waits_for() -> None:
    """Once for each reason, not for each number in it; and who is silent."""
    out = io.StringIO()
    view = LineView(out)
    queued = replace(BUILD, state=BuildState.QUEUED, started=None)
    for waits in (
        "its turn: 2 builds run; 3 before it",
        "its turn: 2 builds run; 2 before it",
        "room for its machine: 4",
    ):
        view.show([replace(picture(queued), waits=waits)])
    view.show([replace(picture(BUILD), waits="conductor a:1: its process is gone; another conductor takes it over")])
    said = [line.partition(": ")[2] for line in out.getvalue().splitlines()]
    assert said == [
        "queued",
        "waits for its turn: 2 builds run; 3 before it",
        "waits for room for its machine: 4",
        "running",
        "conductor a:1: its process is gone; another conductor takes it over",
    ]
    console = Console(file=(shown := io.StringIO()), width=200, force_terminal=True)
    live = LiveView(shown, console)
    live.show([replace(picture(queued), waits="room for its machine: 4")])
    live.close()
    assert "waits for room for its machine: 4" in shown.getvalue()
