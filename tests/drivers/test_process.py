"""Children: their output, their end, and that none outlives its worker."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from imageflow.errors import Cancelled, CommandFailed, Refused, TimedOut
from imageflow.host import child_output, process
from imageflow.host.alive import start_of
from imageflow.host.buildlog import MASK, BuildLog
from imageflow.host.control import Control
from tests.drivers.machine import need

ISOLATED = pytest.mark.parametrize("isolate", [False, True], ids=["plain", "isolated"])


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 60, build_id=f"test-{os.getpid()}")


@pytest.fixture(autouse=True)
def nothing_left(control: Control) -> object:
    yield
    assert process.end_leftovers(control.build_id) == []


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def run(control: Control, script: str, isolate: bool = False, **more: object) -> str:
    if isolate:
        need("unshare", root=True)
    return process.run(["bash", "-c", script], control=control, isolate=isolate, **more)  # type: ignore[arg-type]


# -- output ------------------------------------------------------------------------------------------


def test_captured_output_is_whole_and_the_log_gets_the_rest(control: Control) -> None:
    log: list[str] = []
    text = run(control, "printf 'a\\r\\n\\nb\\n'; echo e >&2", capture=True, log=log.append)
    assert (text, log) == ("a\r\n\nb", ["e"])


@ISOLATED
def test_every_line_arrives_in_order(control: Control, isolate: bool) -> None:
    log: list[str] = []
    run(control, "seq 20000; echo last >&2", isolate, log=log.append)
    assert log == [*map(str, range(1, 20001)), "last"]


@ISOLATED
@pytest.mark.parametrize("code", [0, 3])
def test_output_through_a_filter_is_whole(control: Control, isolate: bool, code: int) -> None:
    """As diskimage-builder does it: the filter still writes when the command has ended."""
    log: list[str] = []
    script = f'exec > >(while read line; do sleep 0.02; echo "$line"; done); seq 10; exit {code}'
    if code:
        with pytest.raises(CommandFailed, match=f"exit code {code}"):
            run(control, script, isolate, log=log.append)
    else:
        run(control, script, isolate, log=log.append)
    assert log == [*map(str, range(1, 11))]


def test_a_line_without_an_end_is_cut_not_kept(control: Control) -> None:
    sizes: list[int] = []
    run(control, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end", log=lambda line: sizes.append(len(line)))
    assert sum(sizes[:-1]) == 3_000_000
    assert max(sizes) == child_output.LINE_LIMIT
    assert sizes[-1] == 3


def test_progress_bars_are_lines(control: Control) -> None:
    log: list[str] = []
    run(control, "printf '10%%\\r20%%\\rdone\\r\\nnext'", log=log.append)
    assert log == ["10%", "20%", "done", "next"]


def test_binary_output_is_text_afterwards(control: Control) -> None:
    log: list[str] = []
    run(control, "printf 'a\\000\\377b\\t\\033[31mred\\033[0m\\n'", log=log.append)
    assert log == ["a\ufffd\ufffdb\tred"]


def test_a_log_that_fails_ends_the_step_and_does_not_block_the_child(control: Control) -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(control, "seq 200000", log=full)


def test_what_a_child_leaves_in_its_session_is_ended(control: Control, tmp_path: Path) -> None:
    start = time.monotonic()
    run(control, f"sleep 300 & echo $! > {tmp_path}/pid")
    assert time.monotonic() - start < 4
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# -- errors ------------------------------------------------------------------------------------------


@ISOLATED
def test_the_error_has_the_code_and_the_last_lines(control: Control, isolate: bool) -> None:
    with pytest.raises(CommandFailed, match="exit code 7") as failure:
        run(control, "echo one; echo why it failed >&2; exit 7", isolate)
    assert "why it failed" in failure.value.hint


@ISOLATED
def test_the_error_names_the_signal(control: Control, isolate: bool) -> None:
    with pytest.raises(CommandFailed, match="SIGSEGV"):
        run(control, "kill -SEGV $$", isolate)


def test_a_secret_is_masked_in_the_error_too(control: Control, tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log", ["hunter2secret"])
    with pytest.raises(CommandFailed) as failure:
        run(control, "echo password is hunter2secret; exit 1", log=log)
    log.close()
    assert failure.value.hint == f"password is {MASK}"
    assert "hunter2" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("argv", "cwd", "said"),
    [
        (["no-such-program"], None, "no 'no-such-program' in PATH"),
        (["/no/such/program"], None, "missing or not executable"),
        (["/etc/passwd"], None, "not executable"),
        (["true"], Path("/no/such/folder"), "/no/such/folder does not exist"),
    ],
)
def test_what_cannot_start_is_said(control: Control, argv: list[str], cwd: Path | None, said: str) -> None:
    with pytest.raises(Refused, match=said):
        process.run(argv, control=control, cwd=cwd)


def test_a_big_argument_list_is_an_error_of_ours(control: Control) -> None:
    with pytest.raises(Refused, match="can't be started"):
        process.run(["true", "x" * (1 << 22)], control=control)


# -- the end -----------------------------------------------------------------------------------------


@ISOLATED
@pytest.mark.parametrize("how", ["cancel", "deadline"])
@pytest.mark.parametrize("deaf", [False, True], ids=["listens", "ignores SIGTERM"])
def test_stopped_children_are_gone(control: Control, tmp_path: Path, isolate: bool, how: str, deaf: bool) -> None:
    started = tmp_path / "started"
    trap = "trap '' TERM;" if deaf else ""
    script = f"{trap} (while :; do sleep 0.1; done) & touch {started}; while :; do sleep 0.1; done"
    if how == "cancel":
        threading.Thread(target=lambda: eventually(started.exists) and control.stop(Cancelled())).start()
    else:
        control.begin_step("slow", 0.5)
    start = time.monotonic()
    with pytest.raises(Cancelled if how == "cancel" else TimedOut):
        run(control, script, isolate, grace=0.5)
    assert time.monotonic() - start < 5


@ISOLATED
def test_a_stopped_child_can_tidy_up_first(control: Control, tmp_path: Path, isolate: bool) -> None:
    script = f"trap 'sleep 0.2; echo tidy > {tmp_path}/end; exit 0' TERM; touch {tmp_path}/start; while :; do sleep 0.1; done"
    threading.Thread(target=lambda: eventually((tmp_path / "start").exists) and control.stop(Cancelled())).start()
    with pytest.raises(Cancelled):
        run(control, script, isolate)
    assert (tmp_path / "end").exists()


def test_stopped_before_it_starts(control: Control) -> None:
    control.stop(Cancelled())
    with pytest.raises(Cancelled):
        process.run(["true"], control=control)


WORKER = """
    import sys, time
    from imageflow.host import child_output, process
    from imageflow.host.control import Control
    print("ready", flush=True)
    process.run(["bash", "-c", sys.argv[1]], control=Control(build_id=sys.argv[2]), isolate=sys.argv[3] == "True", log=print)
"""


def of_build(build_id: str) -> list[psutil.Process]:
    found = []
    for candidate in psutil.process_iter():
        try:
            if (
                candidate.environ().get(process.BUILD_VARIABLE) == build_id
                and candidate.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(candidate)
        except psutil.Error:
            continue
    return found


@ISOLATED
def test_children_die_with_a_killed_worker(control: Control, tmp_path: Path, isolate: bool) -> None:
    if isolate:
        need("unshare", root=True)
    # Isolated, even those go that left the session and forgot where they came from; their mounts too.
    escaped = (
        "setsid env -i bash -c 'while :; do sleep 0.1; done' escaped-$$ & mount -t tmpfs x /mnt;" if isolate else ""
    )
    script = f"{escaped} touch {tmp_path}/started; exec sleep 300"
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), script, control.build_id, str(isolate)])
    try:
        assert eventually((tmp_path / "started").exists)
        before = psutil.Process(worker.pid).children(recursive=True)
        assert before
        worker.kill()
        worker.wait()
        assert eventually(lambda: not [child for child in before if child.is_running()])
    finally:
        worker.kill()
        worker.wait()


def test_children_die_even_when_the_worker_dies_while_it_starts_them(control: Control) -> None:
    """Between fork and setpriv there is nothing that would end the child."""
    for delay in range(12):
        worker = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), "exec sleep 300", control.build_id, "False"],
            stdout=subprocess.PIPE,
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(delay * 0.001)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        assert eventually(lambda: not of_build(control.build_id))


def test_leftovers_of_a_stopped_worker_are_ended(control: Control) -> None:
    script = "exec sleep 300"
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), script, control.build_id, "False"])
    try:
        assert eventually(lambda: any(child.name() == "sleep" for child in of_build(control.build_id)))
        worker.send_signal(signal.SIGSTOP)
        assert process.end_leftovers(control.build_id)
        assert of_build(control.build_id) == []
        assert process.end_leftovers("another") == []
    finally:
        worker.kill()
        worker.wait()


# -- what outlives its worker ------------------------------------------------------------------------


DETACH = """
import os, sys
from pathlib import Path
from imageflow.host import child_output, process

folder = Path(sys.argv[1])
found = process.detach(
    ["sh", "-c", "read line; echo said $line"] if len(sys.argv) < 3 else sys.argv[2:],
    env={"PATH": os.environ["PATH"], "MARK": "here"}, cwd=folder, output=folder / "output",
)
print(found.pid, found.start, flush=True)
os.kill(os.getpid(), 9)
"""


BUILD = secrets.token_hex(6)  # this process's own: tests beside these must not end each other's workers


def detach(folder: Path, *argv: str) -> process.Detached:
    """A process that a worker started and that has lost its worker."""
    command = [sys.executable, "-c", DETACH, str(folder), *argv]
    worker = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "IMAGEFLOW_BUILD": BUILD}
    )
    assert worker.returncode == -signal.SIGKILL
    return process.Detached(*map(int, worker.stdout.split()))


def test_a_detached_process_outlives_its_worker(tmp_path: Path) -> None:
    found = detach(tmp_path, "sleep", "600")
    child = psutil.Process(found.pid)
    try:
        assert start_of(found.pid) == found.start
        assert eventually(lambda: child.name() == "sleep")  # the shell before it execs it
        assert child.cwd() == str(tmp_path)
        assert child.ppid() != os.getpid() and os.getsid(found.pid) != os.getsid(0)
        assert child.environ().items() >= {"MARK": "here"}.items() and "IMAGEFLOW_BUILD" not in child.environ()
        assert process.end_leftovers(BUILD) == []
        assert child.is_running()
    finally:
        os.kill(found.pid, signal.SIGKILL)
    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_detached_process_that_ends_at_once_is_known_all_the_same(tmp_path: Path) -> None:
    found = detach(tmp_path)  # its standard input is empty
    assert found.start > 0
    assert eventually(lambda: (tmp_path / "output").read_text() == "said\n")
    assert (tmp_path / "output").stat().st_mode & 0o777 == 0o600


def test_a_detached_process_may_be_gone_before_it_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shell = tmp_path / "bin" / "sh"  # reaps its children as soon as they end, as some do
    shell.write_text('#!/bin/bash\nbash "$@" | { sleep 0.5; cat; }\n')
    shell.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    found = process.detach(["true"], env=env, cwd=tmp_path, output=tmp_path / "output")
    assert found.start > 0
    assert start_of(found.pid) is None


def test_what_can_not_be_detached_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="can't be started"):
        process.detach(["no-such-program"], env=os.environ, cwd=tmp_path, output=tmp_path / "output")
    assert start_of(2**22 + 1) is None
