"""Commands in a machine that are stopped, hang or lose their connection: nothing of them goes on, and the next one runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from imageflow.errors import Cancelled, TimedOut, Unavailable
from imageflow.guest import connect
from imageflow.guest.connect import SshConnection
from imageflow.host.control import Control
from tests.drivers.sshguest import SshGuest, silent


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


TREE = """
trap '' TERM
(trap '' TERM; while :; do sleep 1; done) &
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &
env -i sh -c 'trap "" TERM; while :; do sleep 1; done' &
echo running
while :; do sleep 1; done
"""


@pytest.mark.parametrize("used", ["guest", "user_guest"])
def test_a_stopped_command_ends_with_everything_that_it_started(used: str, request: pytest.FixtureRequest) -> None:
    guest: SshGuest = request.getfixturevalue(used)
    control = Control(time.monotonic() + 60)

    def sink(line: str) -> None:
        control.stop(Cancelled("enough"))

    with connect.connect(guest.access, control=control, log=silent) as made:
        started = time.monotonic()
        with pytest.raises(Cancelled, match="enough"):
            made.run(TREE, control=control, log=sink)
        assert time.monotonic() - started < 15
        assert guest.marked() == []
        assert guest.command("pgrep", "-x", "sleep") == ""
        assert made.run("ls /run/imageflow", control=Control(time.monotonic() + 20)) == "command"


def test_a_hung_command_ends_with_its_step(root: SshConnection) -> None:
    control = Control(time.monotonic() + 60)
    control.begin_step("hang", 1.0)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        root.run("kill -STOP $$", control=control)
    assert time.monotonic() - started < 12


def test_a_log_that_fails_ends_the_command(root: SshConnection, control: Control) -> None:
    def sink(_line: str) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        root.run("echo x; sleep 100", control=control, log=sink)


WORKER = """
import sys, time
from pathlib import Path
from imageflow.host.control import Control
from imageflow.guest import Access, connect
host, port, user, key, known = sys.argv[1:]
access = Access(host, int(port), user, Path(key), Path(known))
control = Control(time.monotonic() + 60)
made = connect.connect(access, control=control, log=print)
made.run("echo begun > /root/begun; " + {script!r}, control=control, log=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("used", ["guest", "user_guest"])
def test_what_a_killed_worker_left_running_is_ended_before_the_next_command(
    used: str, request: pytest.FixtureRequest
) -> None:
    guest: SshGuest = request.getfixturevalue(used)
    access = guest.access
    arguments = [access.host, str(access.port), access.user, str(access.key), str(access.known_hosts)]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER.format(script=TREE), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "running\n"
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert guest.marked() != []
    control = Control(time.monotonic() + 60)
    with connect.connect(access, control=control, log=silent) as made:
        made.run("true", control=control)
        assert guest.marked() == []
        assert guest.command("pgrep", "-x", "sleep") == ""


def test_a_lost_connection_is_unavailable_and_the_next_command_logs_in_again(own_guest: SshGuest) -> None:
    control = Control(time.monotonic() + 60)
    log: list[str] = []
    with connect.connect(own_guest.access, control=control, log=log.append) as made:
        with pytest.raises(Unavailable, match="the thing: the connection to the machine was lost"):
            made.run("kill -9 $PPID; sleep 100", control=control, name="the thing")
        assert made.run("echo back", control=control) == "back"
        assert len([line for line in log if "logging in again" in line]) == 1
        assert own_guest.command("pgrep", "-x", "sleep") == ""
        own_guest.stop()
        with pytest.raises(Unavailable):
            made.run("true", control=Control(time.monotonic() + 60, guard=_after(control, 1.5)))


def _after(control: Control, seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def guard() -> None:
        if time.monotonic() > end:
            raise Unavailable("enough")

    return guard


def test_a_restarted_server_is_found_again(own_guest: SshGuest) -> None:
    control = Control(time.monotonic() + 60)
    with connect.connect(own_guest.access, control=control, log=silent) as made:
        assert made.run("echo a > /root/kept; cat /root/kept", control=control) == "a"
        own_guest.stop()
        own_guest.start()
        assert made.run("cat /root/kept", control=control) == "a"


def test_many_commands_leave_no_descriptors_and_no_threads(root: SshConnection, control: Control) -> None:
    root.run("true", control=control)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(40):
        root.run("echo x; echo y >&2", control=control)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before[0] + 1)
    assert eventually(lambda: threading.active_count() <= before[1])
