"""Scripts in a machine, over a real sshd: what its shells make of them, their output, their input and their secrets."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from imageflow.errors import BadInput, CommandFailed
from imageflow.guest import connect, remote
from imageflow.guest.connect import SshConnection
from imageflow.host.buildlog import MASK, BuildLog
from imageflow.host.control import Control
from tests.drivers.sshguest import SshGuest, silent

SHELLS = [["dash"], ["bash"], ["busybox", "sh"]]


@pytest.mark.parametrize("shell", SHELLS, ids="-".join)
def test_script_variables_and_input_arrive_unchanged_in_every_shell(shell: list[str]) -> None:
    value = "".join(chr(code) for code in range(1, 0x900)) + "\N{GRINNING FACE}"
    script = "cat; printf '%s' \"$V\"; printf '%s' 'a\\b\n\nc\t  '; exit 3\n"
    given = b"input\n\0\xff"
    line = remote.command_line("m", sudo=False).replace(" sh -c ", f" {' '.join(shell)} -c ")
    done = subprocess.run(
        ["sh", "-c", line], input=remote.header(script, {"V": value}, "m") + given, capture_output=True
    )
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout == given + value.encode() + b"a\\b\n\nc\t  "


def test_what_a_shell_can_not_hold_is_bad_input() -> None:
    with pytest.raises(BadInput, match="NUL"):
        remote.header("echo a\0b", {}, "m")
    with pytest.raises(BadInput, match="variable name"):
        remote.header("true", {"a b": ""}, "m")


def test_output_is_returned_and_logged_live(connection: SshConnection, control: Control) -> None:
    log: list[str] = []
    times: list[float] = []

    def sink(line: str) -> None:
        log.append(line)
        times.append(time.monotonic())

    said = connection.run("echo first; sleep 0.5; echo error >&2; printf 'last\\n\\n'", control=control, log=sink)
    assert log[0] == "first"
    assert times[1] - times[0] > 0.4
    assert said == "first\nlast\n"
    assert sorted(log) == ["", "error", "first", "last"]


def test_everything_runs_as_root(connection: SshConnection, control: Control) -> None:
    assert connection.run("id -u; echo $HOME", control=control) == "0\n/root"
    assert connection.facts.packages == "apt-get"
    assert connection.facts.python == "/usr/bin/python3"
    assert "Debian" in connection.facts.system


def test_colours_controls_and_broken_text_are_cleaned(root: SshConnection, control: Control) -> None:
    log: list[str] = []
    root.run(r"printf '\033[1mbold\033[0m\r\nbell\007 \377\n'", control=control, log=log.append)
    assert log == ["bold", "bell\ufffd \ufffd"]


def test_a_hundred_megabytes_of_output(root: SshConnection, control: Control) -> None:
    count = 0

    def sink(_line: str) -> None:
        nonlocal count
        count += 1

    script = "head -c 100000000 /dev/zero | tr '\\0' x | fold -w 199; echo; echo end"
    said = root.run(script, control=control, log=sink)
    assert count == 502514
    assert said.endswith("\nend")
    assert len(said) < 4 << 20


def test_binary_output_and_one_line_without_an_end(root: SshConnection, control: Control) -> None:
    log: list[str] = []
    root.run("head -c 3000000 /dev/urandom; head -c 300000 /dev/zero", control=control, log=log.append)
    assert max(map(len, log)) <= 1 << 16


@pytest.mark.parametrize("script", ["exit 7", "(exit 7)", "sh -c 'exit 7'"])
def test_an_error_quotes_the_last_lines(connection: SshConnection, control: Control, script: str) -> None:
    with pytest.raises(CommandFailed, match="the thing ended with exit code 7") as caught:
        connection.run(f"seq 9; {script}", control=control, name="the thing")
    assert caught.value.hint == "7 | 8 | 9"


def test_a_command_that_is_killed_says_so(root: SshConnection, control: Control) -> None:
    with pytest.raises(CommandFailed, match="SIGKILL"):
        root.run("sh -c 'kill -9 $$'", control=control)
    with pytest.raises(CommandFailed, match="was ended from outside"):
        root.run("kill -9 $$; sleep 5", control=control)
    assert root.run("echo on", control=control) == "on"


def test_a_service_that_keeps_the_output_open_is_not_waited_for_and_not_ended(own_guest: SshGuest) -> None:
    control = Control(time.monotonic() + 60)
    with connect.connect(own_guest.access, control=control, log=silent) as made:
        started = time.monotonic()
        assert made.run("sleep 300 & echo started", control=control) == "started"
        assert time.monotonic() - started < 5
        made.run("true", control=control)
        assert made.run("pidof sleep", control=control)


def test_input_larger_than_every_window(root: SshConnection, control: Control) -> None:
    data = os.urandom(1 << 20) * 8
    assert root.run("wc -c", control=control, stdin=data) == str(len(data))


def test_input_that_nobody_reads_harms_nothing(root: SshConnection, control: Control) -> None:
    assert root.run("echo fine", control=control, stdin=bytes(50 << 20)) == "fine"
    with pytest.raises(CommandFailed, match="exit code 4"):
        root.run("exit 4", control=control, stdin=bytes(50 << 20))


def test_values_are_in_no_list_of_processes_in_no_log_and_in_no_file(guest: SshGuest, tmp_path: Path) -> None:
    control = Control(time.monotonic() + 60)
    log = BuildLog(tmp_path / "log", ["s3cret-value"])
    with connect.connect(guest.access, control=control, log=log) as made:
        said = made.run(
            'ps axww -o args; cat /proc/[0-9]*/cmdline | tr "\\0" " "; echo "[$TOKEN]"',
            control=control,
            log=log,
            environment={"TOKEN": "s3cret-value"},
        )
        assert said.count("s3cret-value") == 1  # what the script itself printed
        assert "[s3cret-value]" in said
        with pytest.raises(CommandFailed) as caught:
            made.run("echo no: $TOKEN; exit 1", control=control, environment={"TOKEN": "s3cret-value"})
        assert "s3cret-value" not in str(caught.value)
    assert "s3cret-value" not in log.path.read_text()
    assert f"[{MASK}]" in log.path.read_text()
    assert guest.command("grep", "-rl", "s3cret-value", "/etc", "/root", "/run", "/tmp", "/var/tmp", "/var/log") == ""
