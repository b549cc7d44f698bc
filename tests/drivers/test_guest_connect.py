"""Scripts and files in a machine, over a real sshd: their output, their end, their secrets, and lost connections."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imageflow.buildlog import MASK, BuildLog
from imageflow.control import Control
from imageflow.errors import BadInput, Cancelled, CommandFailed, MachineTrouble, Refused, TimedOut, Unavailable
from imageflow.guest import connect, keys, remote
from imageflow.guest.connect import Connection
from tests.drivers.sshguest import SshGuest, ssh_guest

SHELLS = [["dash"], ["bash"], ["busybox", "sh"]]


def silent(_line: str) -> None:
    pass


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 60)


@pytest.fixture(scope="module")
def guest() -> Iterator[SshGuest]:
    with ssh_guest() as made:
        yield made


@pytest.fixture(scope="module")
def user_guest() -> Iterator[SshGuest]:
    with ssh_guest("builder") as made:
        yield made


@pytest.fixture
def own_guest() -> Iterator[SshGuest]:
    """One that a test may break."""
    with ssh_guest() as made:
        yield made


@pytest.fixture(params=["root", "builder"])
def connection(request: pytest.FixtureRequest, control: Control) -> Iterator[Connection]:
    used: SshGuest = request.getfixturevalue("guest" if request.param == "root" else "user_guest")
    with connect.connect(used.access, control=control, log=silent) as made:
        yield made
    assert used.marked() == []


@pytest.fixture
def root(guest: SshGuest, control: Control) -> Iterator[Connection]:
    with connect.connect(guest.access, control=control, log=silent) as made:
        yield made
    assert guest.marked() == []


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# -- what the shells make of it ------------------------------------------------------------------------


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
    with pytest.raises(BadInput, match="name of a variable"):
        remote.header("true", {"a b": ""}, "m")


# -- output ----------------------------------------------------------------------------------------------


def test_output_is_returned_and_logged_live(connection: Connection, control: Control) -> None:
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


def test_everything_runs_as_root(connection: Connection, control: Control) -> None:
    assert connection.run("id -u; echo $HOME", control=control) == "0\n/root"
    assert connection.facts.packages == "apt-get"
    assert connection.facts.python == "/usr/bin/python3"
    assert not connection.facts.systemd
    assert "Debian" in connection.facts.system


def test_colours_controls_and_broken_text_are_cleaned(root: Connection, control: Control) -> None:
    log: list[str] = []
    root.run(r"printf '\033[1mbold\033[0m\r\nbell\007 \377\n'", control=control, log=log.append)
    assert log == ["bold", "bell\ufffd \ufffd"]


def test_a_hundred_megabytes_of_output(root: Connection, control: Control) -> None:
    count = 0

    def sink(_line: str) -> None:
        nonlocal count
        count += 1

    script = "head -c 100000000 /dev/zero | tr '\\0' x | fold -w 199; echo; echo end"
    said = root.run(script, control=control, log=sink)
    assert count == 502514
    assert said.endswith("\nend")
    assert len(said) < 4 << 20


def test_binary_output_and_one_line_without_an_end(root: Connection, control: Control) -> None:
    log: list[str] = []
    root.run("head -c 3000000 /dev/urandom; head -c 300000 /dev/zero", control=control, log=log.append)
    assert max(map(len, log)) <= 1 << 16


@pytest.mark.parametrize("script", ["exit 7", "(exit 7)", "sh -c 'exit 7'"])
def test_an_error_quotes_the_last_lines(connection: Connection, control: Control, script: str) -> None:
    with pytest.raises(CommandFailed, match="the thing ended with exit code 7") as caught:
        connection.run(f"seq 9; {script}", control=control, name="the thing")
    assert caught.value.hint == "7 | 8 | 9"


def test_a_command_that_is_killed_says_so(root: Connection, control: Control) -> None:
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


# -- input and secrets -------------------------------------------------------------------------------------


def test_input_larger_than_every_window(root: Connection, control: Control) -> None:
    data = os.urandom(1 << 20) * 8
    assert root.run("wc -c", control=control, stdin=data) == str(len(data))


def test_input_that_nobody_reads_harms_nothing(root: Connection, control: Control) -> None:
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


# -- files ---------------------------------------------------------------------------------------------------


def test_files_arrive_whole_with_mode_and_owner(connection: Connection, control: Control, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "local").write_bytes(data)
    connection.put(tmp_path / "local", "/opt/new/a b'c", mode="4711", owner="daemon", control=control)
    assert connection.run("cd /opt/new; stat -c '%a %U:%G %s' \"a b'c\"; ls -A", control=control) == (
        "4711 daemon:daemon 300000\na b'c"
    )
    said = connection.run('sha256sum < "/opt/new/a b\'c"', control=control)
    assert said.split()[0] == hashlib.sha256(data).hexdigest()
    connection.put(b"", "/opt/new/a b'c", control=control)
    assert connection.run("stat -c '%a %U:%G %s' \"/opt/new/a b'c\"", control=control) == "644 root:root 0"


def test_a_file_is_not_put_into_a_directory_and_never_in_half(
    root: Connection, control: Control, tmp_path: Path
) -> None:
    with pytest.raises(CommandFailed, match="is a directory"):
        root.put(b"x", "/etc", control=control)
    root.put(b"before", "/opt/kept", control=control)
    growing = tmp_path / "growing"
    growing.write_bytes(b"123")

    class Lying(type(growing)):  # type: ignore[misc]
        def stat(self, **_: object) -> os.stat_result:
            return os.stat_result((0, 0, 0, 0, 0, 0, 5, 0, 0, 0))

    with pytest.raises(CommandFailed, match="did not arrive whole"):
        root.put(Lying(growing), "/opt/kept", control=control)
    assert root.run("cat /opt/kept; ls -A /opt | grep imageflow || :", control=control) == "before"


def test_a_local_file_that_can_not_be_read(root: Connection, control: Control, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        root.put(tmp_path, "/opt/x", control=control)
    assert root.run("ls -A /opt | grep -c '^x$' || :", control=control) == "0"


def test_a_tree_arrives_as_it_is(connection: Connection, control: Control, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/empty").mkdir(parents=True)
    (tree / "deep" / ("n" * 200)).write_text("long")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o750)
    (tree / "again").hardlink_to(tree / "run")
    (tree / "link").symlink_to("run")
    connection.run("mkdir -p /opt/tree; echo old > /opt/tree/old", control=control)
    connection.put_tree(tree, "/opt/tree/", control=control)
    said = connection.run(
        "cd /opt/tree; find . | sort; stat -c '%a %U' run again; readlink link; cat deep/n*", control=control
    )
    assert said.split("\n") == [
        ".", "./again", "./deep", "./deep/empty", "./deep/" + "n" * 200, "./link", "./run",
        "750 root", "750 root", "run", "long",
    ]  # fmt: skip


def test_a_tree_with_something_that_can_not_be_copied_leaves_what_was_there(
    root: Connection, control: Control, tmp_path: Path
) -> None:
    root.run("rm -rf /opt/t; mkdir -p /opt/t; echo old > /opt/t/old", control=control)
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a").write_bytes(os.urandom(100_000))
    os.mkfifo(tmp_path / "t/z")
    with pytest.raises(Refused, match="neither a file"):
        root.put_tree(tmp_path / "t", "/opt/t", control=control)
    assert root.run("ls -A /opt/t; ls -A /opt | grep put || :", control=control) == "old"


# -- the end of commands -----------------------------------------------------------------------------------------

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


def test_a_hung_command_ends_with_its_step(root: Connection) -> None:
    control = Control(time.monotonic() + 60)
    control.begin_step("hang", 1.0)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        root.run("kill -STOP $$", control=control)
    assert time.monotonic() - started < 12


def test_a_log_that_fails_ends_the_command(root: Connection, control: Control) -> None:
    def sink(_line: str) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        root.run("echo x; sleep 100", control=control, log=sink)


WORKER = """
import sys, time
from pathlib import Path
from imageflow.control import Control
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


def test_many_commands_leave_no_descriptors_and_no_threads(root: Connection, control: Control) -> None:
    root.run("true", control=control)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(40):
        root.run("echo x; echo y >&2", control=control)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before[0] + 1)
    assert eventually(lambda: threading.active_count() <= before[1])


# -- logging in -----------------------------------------------------------------------------------------------


def test_another_host_key_is_refused_at_once(guest: SshGuest, control: Control, tmp_path: Path) -> None:
    other = keys.make(tmp_path / "other")
    access = guest.access
    keys.expect(access.known_hosts, other.host_public)
    try:
        started = time.monotonic()
        with pytest.raises(Refused, match="another host key"):
            connect.connect(access, control=control, log=silent)
        assert time.monotonic() - started < 5
    finally:
        keys.expect(access.known_hosts, guest.keys.host_public)


def test_an_unknown_host_key_is_pinned_at_the_first_connection(guest: SshGuest, control: Control) -> None:
    guest.keys.known_hosts.unlink(missing_ok=True)
    access = keys.access(guest.keys, "127.0.0.1", guest.port, host_known=False)
    connect.connect(access, control=control, log=silent).close()
    assert keys.expected(access.known_hosts) == [tuple(guest.keys.host_public.split()[:2])]


def test_a_key_that_is_not_there_yet_is_waited_for(own_guest: SshGuest, control: Control) -> None:
    authorized = "/root/.ssh/authorized_keys"
    own_guest.command("mv", authorized, "/root/aside")
    with pytest.raises(Unavailable, match="does not accept the build's key"):
        connect.connect(own_guest.access, control=control, log=silent, timeout=1.0)
    timer = threading.Timer(1.5, own_guest.command, ["mv", "/root/aside", authorized])
    timer.start()
    connect.connect(own_guest.access, control=control, log=silent, timeout=30).close()
    timer.join()


def test_a_machine_that_is_not_up_yet_is_waited_for(control: Control) -> None:
    with ssh_guest() as own:
        own.stop()
        access, connected = own.access, threading.Event()

        def log_in() -> None:
            connect.connect(access, control=control, log=silent, timeout=30).close()
            connected.set()

        thread = threading.Thread(target=log_in)
        thread.start()
        time.sleep(1.0)
        own.start()
        thread.join()
        assert connected.is_set()


@pytest.mark.parametrize("behaviour", ["silent", "closes", "talks nonsense"])
def test_a_port_where_no_ssh_server_is(behaviour: str, guest: SshGuest, control: Control) -> None:
    """As qemu's own network does it before the machine has one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                except OSError:
                    return
                if behaviour == "silent":
                    kept.append(taken)
                    continue
                if behaviour == "talks nonsense":
                    taken.sendall(b"220 mail\r\n" * 5)
                taken.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            access = keys.access(guest.keys, "127.0.0.1", port, host_known=True)
            with pytest.raises(Unavailable, match=f"no login over SSH at 127.0.0.1:{port} within 2 s"):
                connect.connect(access, control=control, log=silent, timeout=2)
            died = time.monotonic() + 0.7
            with pytest.raises(MachineTrouble, match="it died"):
                connect.await_ssh(
                    access,
                    control=control,
                    log=silent,
                    timeout=30,
                    dead=lambda: "it died" if time.monotonic() > died else None,
                )
            assert time.monotonic() - died < 3
            with pytest.raises(Cancelled):
                connect.connect(access, control=_stopping(1.0), log=silent, timeout=30)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()
            for each in kept:
                each.close()


def _stopping(seconds: float) -> Control:
    control = Control()
    timer = threading.Timer(seconds, control.stop, [Cancelled("stop")])
    timer.daemon = True
    timer.start()
    return control


def test_cloud_init_is_waited_for(own_guest: SshGuest, control: Control) -> None:
    fake = textwrap.dedent(
        """\
        #!/bin/sh
        [ "$*" = "status --wait" ] || exit 9
        while [ ! -e /run/cloud-init/result.json ]; do sleep 0.1; done
        """
    )
    with connect.connect(own_guest.access, control=control, log=silent) as made:
        made.put(fake.encode(), "/usr/local/bin/cloud-init", mode="0755", control=control)
        made.run("mkdir -p /run/cloud-init", control=control)
        with pytest.raises(Unavailable, match="cloud-init is still not done"):
            made.await_cloud_init(control, 1.0)
        log: list[str] = []
        timer = threading.Timer(1.0, own_guest.command, ["touch", "/run/cloud-init/result.json"])
        timer.start()
        connect.await_ssh(own_guest.access, control=control, log=log.append, timeout=30, dead=lambda: None).close()
        timer.join()
        assert log == ["waiting for cloud-init"]
