"""The only place that starts a child process.

A child has its own session, a deadline, a cancel switch and a log, and it dies with its worker:
`setpriv --pdeathsig KILL` ends the child when the thread that waits for it is gone, and an isolated
child is alone with its descendants in a pid namespace, so that they all go with it (`unshare
--kill-child`, measured: after SIGKILL of the worker no process and no mount is left).

`detach` is the one exception: what it starts (a machine) outlives the worker, and is found again by its
pid and start time.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from imageflow.control import Control
from imageflow.errors import CommandFailed, Refused

ISOLATE = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
    "--",
    sys.executable,
    "-IS",
    str(Path(__file__).with_name("first_process.py")),
)
BUILD_VARIABLE = "IMAGEFLOW_BUILD"  # in the environment of every child of a build: its id
# A worker that is killed before setpriv has run would be missed: the shell compares its parent afterwards.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] || exit 125; exec "$@"')
# The shell starts the program, says its pid, and stays until it is told that the pid was looked up: it can't be another's.
DETACH = ("sh", "-c", '"$@" >>"$0" 2>&1 & echo $!; read _')
LINE_LIMIT = 64 * 1024  # bytes after which a line is cut into two
TAIL = 15  # lines of output that are kept for an error
_CHECK = 0.25  # seconds between two looks at `control`
_LINGER = 1.0  # seconds that what the child left behind may go on writing
_LINE_END = re.compile(rb"\r\n|[\r\n]")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), 127), "\N{REPLACEMENT CHARACTER}")  # all but the tab


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    control: Control,
    log: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    isolate: bool = False,
    capture: bool = False,
    name: str = "",
    grace: float = 5.0,
) -> str:
    """Run a command to its end; -> its standard output (no newline at its end) if `capture`, else ''.

    `log` gets every line of output as it comes (standard error only, if `capture`), without colours and
    control characters, very long ones in pieces; if it has a method `clean`, as a BuildLog does, that
    masks what an error quotes. `isolate` gives the command private mount and pid namespaces (root only).
    When `control` says stop, the whole session gets SIGTERM, after `grace` seconds SIGKILL, and the
    reason is raised. `env` replaces the environment. What the command leaves running is ended with it.

    Raises CommandFailed with the last lines of output when the command's exit code is not 0, Refused
    when it can't be started, and what `log` raised.
    """
    name = name or Path(argv[0]).name
    control.check()
    environment = {**(os.environ if env is None else env), BUILD_VARIABLE: control.build_id}
    words = [os.fspath(word) for word in argv]
    _look_for(words[0], environment, cwd, name)
    command = [*DIE_WITH_PARENT, str(os.getpid()), *(ISOLATE if isolate else ()), *words]
    clean: Callable[[str], str] = getattr(log, "clean", str)
    tail: deque[str] = deque(maxlen=TAIL)

    def sink(line: str) -> None:
        tail.append(clean(line))
        if log is not None:
            log(line)

    with _child(command, environment, cwd, capture, name) as child:
        errors = None if child.stderr is None else _Lines(child.stderr, sink)
        out: _Lines | _Bytes = _Bytes(child.stdout) if capture else _Lines(child.stdout, sink)
        readers = [reader for reader in (out, errors) if reader is not None]
        try:
            _await_end(child, control)
            for reader in readers:
                reader.join(_LINGER)
        finally:
            _end(child, grace, isolate)
            for reader in readers:
                reader.finish()
    for reader in readers:
        if reader.error is not None:
            raise reader.error
    if child.returncode:
        raise CommandFailed(verdict(name, child.returncode), hint=" | ".join(list(tail)[-3:]) or "it printed nothing")
    return out.text() if isinstance(out, _Bytes) else ""


def output(argv: Sequence[str], timeout: float = 30.0, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a short command outside of any build; raises like `run`."""
    control = Control(time.monotonic() + timeout)
    return run(argv, control=control, capture=True, env=env)


class Detached(NamedTuple):
    """A process that may outlive us; its pid alone could be another's after a while."""

    pid: int
    start: int  # clock ticks after the host's boot: field 22 of /proc/PID/stat


def detach(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: Path,
    pass_fds: Sequence[int] = (),
    name: str = "",
) -> Detached:
    """Start a program that outlives this worker: in a session of its own, and nobody's child but init's.

    `output` gets what it prints, at its end; `env` is its whole environment, without a build's mark.
    Whoever calls this must be able to find the program again, by something in `env`: a worker can be
    killed before the answer is stored. Raises Refused when it can't be started.
    """
    name = name or Path(argv[0]).name
    words = [os.fspath(word) for word in argv]
    _look_for(words[0], env, cwd, name)
    output.touch(mode=0o600)
    with subprocess.Popen(
        [*DETACH, str(output), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
        pass_fds=pass_fds,
    ) as shell:
        assert shell.stdout is not None
        answer = shell.stdout.readline()
        if not answer.strip().isdigit():
            raise Refused(f"{name} can't be started", hint="is the host out of processes or memory?")
        pid = int(answer)
        start = start_of(pid)
        assert start is not None  # the shell has not reaped it
        return Detached(pid, start)


def start_of(pid: int) -> int | None:
    """Start time of a process as in Detached, of one that has ended but is not reaped, too; None: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def end_leftovers(build_id: str) -> list[int]:
    """End every process that another worker started for a build, on this machine; -> their pids.

    A worker that was stopped (not killed) past its lease still has its children: they must not work in
    the same folder as ours. Isolated children take all their descendants with them.
    """
    marker = f"{BUILD_VARIABLE}={build_id}".encode()
    ended: dict[int, int] = {}  # pidfd -> pid
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                handle = os.pidfd_open(int(entry.name))
                ended[handle] = int(entry.name)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    deadline = time.monotonic() + 10
    for handle in ended:
        poll = select.poll()  # a handle can be read when its process has ended, reaped or not
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(handle)
    return list(ended.values())


def _look_for(program: str, env: Mapping[str, str], cwd: Path | None, name: str) -> None:
    """Raise Refused now: setpriv would only end with an exit code."""
    if cwd is not None and not cwd.is_dir():
        raise Refused(f"{name} can't be started: its folder {cwd} does not exist")
    # Where PATH is a relative folder, which() and exec disagree about cwd; nobody needs that.
    if "/" not in program and shutil.which(program, path=env.get("PATH", os.defpath)) is None:
        raise Refused(f"{name} can't be started: there is no {program!r} in PATH", hint=f"is {program} installed?")
    if "/" in program and not os.access(os.path.join(cwd or ".", program), os.X_OK):
        raise Refused(f"{name} can't be started: {program} is missing or not executable", hint=f"is {name} installed?")


def verdict(name: str, code: int) -> str:
    """What an exit code says, in words; a negative one, or one above 128, is a signal's."""
    if code > 128 and code - 128 in set(signal.Signals):
        code = 128 - code  # as a shell and first_process.py say it
    if code < 0:
        return f"{name} was ended by {signal.Signals(-code).name}"
    return f"{name} ended with exit code {code}"


@contextlib.contextmanager
def _child(
    command: list[str], env: Mapping[str, str], cwd: Path | None, capture: bool, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if capture else subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(
            f"{name} can't be started: {error.strerror}", hint=f"is {error.filename or name} installed?"
        ) from error
    try:
        yield child
    finally:
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _await_end(child: subprocess.Popen[bytes], control: Control) -> None:
    """Return when the child has ended, but is not reaped: its group's number stays its own until then."""
    poll = select.poll()
    end = os.pidfd_open(child.pid)
    try:
        poll.register(end, select.POLLIN)
        while not poll.poll(_CHECK * 1000):
            control.check()
    finally:
        os.close(end)


def _end(child: subprocess.Popen[bytes], grace: float, isolate: bool) -> None:
    """The child and everything left in its session or its namespace is gone when this returns."""
    inner: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        inner = psutil.Process(child.pid).children() if isolate else []
    if not _has_ended(child):
        _signal(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while not _has_ended(child) and time.monotonic() < deadline:
            time.sleep(0.01)
    _signal(child.pid, signal.SIGKILL)
    child.wait()
    psutil.wait_procs(inner, timeout=grace)  # the first of a namespace is gone after all others in it
    deadline = time.monotonic() + _LINGER
    while _signal(child.pid, 0) and _lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.005)


def _lives(group: int) -> bool:
    """Whether a process of the group is more than a zombie, which is init's to reap."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, without reaping it."""
    if child.returncode is not None:
        return True
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(group: int, number: int) -> bool:
    """Whether there was a process to get it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


class _Reader(threading.Thread):
    """Reads a child's stream to its end; never lets the child wait because a reader failed."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(name="child output", daemon=True)
        assert stream is not None
        self._file = stream.fileno()
        self._finishing = threading.Event()
        self._deadline = float("inf")
        self.error: BaseException | None = None
        self.start()

    def finish(self) -> None:
        """Take what is there now, then stop, even if somebody still holds the other end open."""
        self._deadline = time.monotonic() + _LINGER
        self._finishing.set()
        self.join()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        while time.monotonic() < self._deadline:
            if not poll.poll(100):
                if self._finishing.is_set():
                    break
                continue
            data = os.read(self._file, 65536)
            if not data:
                break
            self._guarded(self._take, data)
        self._guarded(self._take, b"")

    def _guarded(self, take: Callable[[bytes], None], data: bytes) -> None:
        if self.error is None:
            try:
                take(data)
            except BaseException as error:  # noqa: BLE001 - raised again where the child is waited for
                self.error = error

    def _take(self, data: bytes) -> None:
        """More of the output; b'' at its end."""
        raise NotImplementedError


class Lines:
    """Makes text lines of bytes as they come: no colours, no control characters, very long ones in pieces."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More of the output; b'' at its end."""
        *lines, self._rest = _LINE_END.split(self._rest + data)
        if data.endswith(b"\r") and lines:
            self._rest = lines.pop() + b"\r"  # maybe one half of a line end
        if not data:
            lines, self._rest = ([self._rest] if self._rest else []), b""
        for line in lines:
            self._emit(line)
        while len(self._rest) > LINE_LIMIT:
            self._emit(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]

    def _emit(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_LIMIT):
            text = line[start : start + LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
            self._sink(_COLOURS.sub("", text).translate(_CONTROLS))


class _Lines(_Reader):
    """Hands out text lines as they come."""

    def __init__(self, stream: IO[bytes] | None, sink: Callable[[str], None]) -> None:
        self._lines = Lines(sink)
        super().__init__(stream)

    def _take(self, data: bytes) -> None:
        self._lines.feed(data)


class _Bytes(_Reader):
    """Keeps everything."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._parts: list[bytes] = []
        super().__init__(stream)

    def _take(self, data: bytes) -> None:
        self._parts.append(data)

    def text(self) -> str:
        return b"".join(self._parts).decode("utf-8", "replace").removesuffix("\n")
