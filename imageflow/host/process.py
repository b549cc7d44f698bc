"""The only place that starts a child process.

A child has its own session, a deadline, a cancel switch and a log, and it dies with its worker:
`setpriv --pdeathsig KILL` ends the child when the thread that waits for it is gone, and an isolated
child is alone with its descendants in a pid namespace, so that they all end with it (`unshare
--kill-child`, measured: after SIGKILL of the worker no process and no mount is left).

`detach` is the one exception: the process it starts (a machine) outlives the worker, and is found again by
its pid and start time.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from imageflow.errors import CommandFailed, Refused
from imageflow.host import environment
from imageflow.host.alive import start_in
from imageflow.host.buildlog import cleaner
from imageflow.host.child_output import MOST, BytesReader, LinesReader, Reader
from imageflow.host.control import Control

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
BUILD_VARIABLE = "IMAGEFLOW_BUILD"  # in the environment of every child: the build's id
# setpriv would miss a worker killed before it ran: the shell checks its parent afterwards.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] || exit 125; exec "$@"')
# The program's process says who it is before it becomes the program: that may have ended, and be gone, before we look.
DETACH = ("sh", "-c", '{ read -r stat </proc/self/stat; echo "$stat"; exec >>"$0" 2>&1; exec "$@"; } & read _')
TAIL = 15  # lines of output kept for an error
_UMASK = 0o022  # of children that make what goes into images, or is read by others
_CHECK = 0.25  # seconds between two looks at `control`
_LINGER = 1.0  # seconds that processes left by the child may go on writing


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    control: Control,
    log: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    isolate: bool = False,
    capture: bool = False,
    most: int = MOST,
    given: bytes = b"",
    name: str = "",
    grace: float = 5.0,
) -> str:
    """Run a command to its end; -> its standard output (no newline at its end, at most `most` bytes) if `capture`, else ''.

    `log` gets every line of output as it comes (only standard error, if `capture`), without colours and
    control characters, very long ones in pieces; its method `clean`, if any, masks what an error quotes.
    `isolate` gives the command private mount and pid namespaces (root only). When `control` says stop, the
    whole session gets SIGTERM, after `grace` seconds SIGKILL, and the reason is raised. `env` is its whole
    environment; without it environment.passed, never all of ours. `given` is what it reads from its standard
    input. Processes that the command leaves running are ended.

    Raises CommandFailed with the last lines of output when the command's exit code is not 0, Refused
    when it can't be started, Exceeded when it says more than it may, and what `log` raised.
    """
    name = name or Path(argv[0]).name
    control.check()
    variables = {**(environment.passed() if env is None else env), BUILD_VARIABLE: control.build_id}
    words = [os.fspath(word) for word in argv]
    _look_for(words[0], variables, cwd, name)
    command = [*DIE_WITH_PARENT, str(os.getpid()), *(ISOLATE if isolate else ()), *words]
    clean = cleaner(log)
    tail: deque[str] = deque(maxlen=TAIL)

    def sink(line: str) -> None:
        tail.append(clean(line))
        if log is not None:
            log(line)

    with _input(given) as stdin, _child(command, variables, cwd, stdin, capture, name) as child:
        errors = None if child.stderr is None else LinesReader(child.stderr, sink)
        out: LinesReader | BytesReader = (
            BytesReader(child.stdout, most, name) if capture else LinesReader(child.stdout, sink)
        )
        readers = [reader for reader in (out, errors) if reader is not None]
        try:
            _await_end(child, control, readers)
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
    return out.text() if isinstance(out, BytesReader) else ""


def output(argv: Sequence[str], timeout: float = 30.0, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a short command outside any build; raises like `run`."""
    control = Control(time.monotonic() + timeout)
    return run(argv, control=control, capture=True, env=env)


class Detached(NamedTuple):
    """A process that may outlive us; its pid alone could be reused after a while."""

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
    """Start a program that outlives this worker: in its own session, as a child of init.

    Its output is appended to `output`; `env` is its whole environment, without a build's mark. The caller must
    be able to find the program again by something in `env`: a worker can be killed before the result is
    stored. Raises Refused when it can't be started.
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
        umask=0o077,
        pass_fds=pass_fds,
    ) as shell:
        assert shell.stdout is not None
        answer = shell.stdout.readline()
        if not answer.strip():
            raise Refused(f"{name} can't be started", hint="is the host out of processes or memory?")
        return Detached(int(answer.split()[0]), start_in(answer))


def end_leftovers(build_id: str) -> list[int]:
    """End every process on this host that another worker started for a build; -> their pids.

    A worker suspended (not killed) past its lease still has its children: they must not work in the same
    folder as ours. Isolated children take all their descendants with them.
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
        poll = select.poll()  # a pidfd is readable when its process has ended, reaped or not
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(handle)
    return list(ended.values())


def _look_for(program: str, env: Mapping[str, str], cwd: Path | None, name: str) -> None:
    """Raise Refused if the program can't be run: setpriv would only exit with a code."""
    if cwd is not None and not cwd.is_dir():
        raise Refused(f"{name} can't be started: its folder {cwd} does not exist")
    # If PATH has a relative folder, which() and exec disagree about cwd; not supported.
    if "/" not in program and shutil.which(program, path=env.get("PATH", os.defpath)) is None:
        raise Refused(f"{name} can't be started: there is no {program!r} in PATH", hint=f"is {program} installed?")
    if "/" in program and not os.access(os.path.join(cwd or ".", program), os.X_OK):
        raise Refused(f"{name} can't be started: {program} is missing or not executable", hint=f"is {name} installed?")


def verdict(name: str, code: int) -> str:
    """An exit code as a message; a negative one, or one above 128, means a signal."""
    if code > 128 and code - 128 in set(signal.Signals):
        code = 128 - code  # as a shell and first_process.py return it
    if code < 0:
        return f"{name} was ended by {signal.Signals(-code).name}"
    return f"{name} ended with exit code {code}"


@contextlib.contextmanager
def _input(given: bytes) -> Iterator[int]:
    """A descriptor to read this from: in memory, so that it is on no disk, and nobody has to write it while we wait."""
    if not given:
        yield subprocess.DEVNULL
        return
    with open(os.memfd_create("input"), "w+b") as file:
        file.write(given)
        file.seek(0)
        yield file.fileno()


@contextlib.contextmanager
def _child(
    command: list[str], env: Mapping[str, str], cwd: Path | None, stdin: int, capture: bool, name: str
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        child = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if capture else subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            umask=_UMASK,
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


def _await_end(child: subprocess.Popen[bytes], control: Control, readers: Sequence[Reader]) -> None:
    """Wait until the child has ended or a reader has failed, but don't reap it: until then its group id can't be reused."""
    poll = select.poll()
    end = os.pidfd_open(child.pid)
    try:
        poll.register(end, select.POLLIN)
        while not poll.poll(_CHECK * 1000) and not any(reader.error for reader in readers):
            control.check()
    finally:
        os.close(end)


def _end(child: subprocess.Popen[bytes], grace: float, isolate: bool) -> None:
    """End the child and everything left in its session or its namespace."""
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
    psutil.wait_procs(inner, timeout=grace)  # the first process of a namespace ends after all others in it
    deadline = time.monotonic() + _LINGER
    while _signal(child.pid, 0) and _lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.005)


def _lives(group: int) -> bool:
    """Whether a process of the group is alive and not a zombie, which init has to reap."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; does not reap it."""
    if child.returncode is not None:
        return True
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(group: int, number: int) -> bool:
    """Send a signal to a group; -> whether it had a process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False
