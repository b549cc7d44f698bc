"""The only place that starts a child process.

A child has its own session, a deadline, a cancel switch and a log, and it dies with its worker:
`setpriv --pdeathsig KILL` ends the child when the thread that waits for it is gone, and an isolated
child is the first process of its own pid namespace, so that all its descendants go with it
(`unshare --kill-child`, measured: after SIGKILL of the worker no process and no mount is left).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

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
)
BUILD_VARIABLE = "IMAGEFLOW_BUILD"  # in the environment of every child of a build: its id
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
_TAIL = 15  # lines of output that an error carries


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
    """Run a command to its end; -> its standard output if `capture`, else ''.

    `log` gets every line of output as it comes (standard error only, if `capture`). `isolate` gives it
    private mount and pid namespaces (root only). When `control` says stop, the whole session gets
    SIGTERM, after `grace` seconds SIGKILL, and the reason is raised. `env` replaces the environment.

    Raises CommandFailed with the last lines of output when the command's exit code is not 0, Refused
    when it can't be started.
    """
    name = name or Path(argv[0]).name
    control.check()
    command = [*DIE_WITH_PARENT, *(ISOLATE if isolate else ()), *map(os.fspath, argv)]
    tail: deque[str] = deque(maxlen=_TAIL)

    def sink(line: str) -> None:
        tail.append(line)
        if log is not None:
            log(line)

    out: list[str] = []
    environment = {**(os.environ if env is None else env), BUILD_VARIABLE: control.build_id}
    with _child(command, environment, cwd, capture, grace, name) as child:
        readers = [threading.Thread(target=_read, args=(child.stdout, out.append if capture else sink), daemon=True)]
        if capture:
            readers.append(threading.Thread(target=_read, args=(child.stderr, sink), daemon=True))
        for reader in readers:
            reader.start()
        wait = 0.005  # a short command costs no half second, a long one no busy loop
        while child.poll() is None:
            control.wait(wait)
            wait = min(wait * 2, 0.25)
        for reader in readers:
            reader.join(timeout=grace)
    if child.returncode:
        raise CommandFailed(_verdict(name, child.returncode), hint=" | ".join(list(tail)[-3:]) or "it printed nothing")
    return "\n".join(out)


def output(argv: Sequence[str], timeout: float = 30.0, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a short command outside of any build; raises like `run`."""
    control = Control(time.monotonic() + timeout)
    return run(argv, control=control, capture=True, env=env)


def end_leftovers(build_id: str) -> list[int]:
    """End every process that another worker started for a build, on this machine; -> their pids.

    A worker that was stopped (not killed) past its lease still has its children: they must not work in
    the same folder as ours. Isolated children take all their descendants with them.
    """
    marker = f"{BUILD_VARIABLE}={build_id}".encode()
    ended: list[psutil.Process] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, psutil.Error):
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                child = psutil.Process(int(entry.name))
                child.kill()
                ended.append(child)
    psutil.wait_procs(ended, timeout=10)
    return [child.pid for child in ended]


def _verdict(name: str, code: int) -> str:
    if code < 0:
        return f"{name} was ended by {signal.Signals(-code).name}"
    return f"{name} ended with exit code {code}"


@contextlib.contextmanager
def _child(
    command: list[str], env: Mapping[str, str], cwd: Path | None, capture: bool, grace: float, name: str
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
        raise Refused(f"{name} can't be started: {error.strerror}", hint=f"is {error.filename or name} installed?") from error
    try:
        yield child
    finally:
        _end(child, grace)
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    """The child and everything left in its session are gone when this returns."""
    if child.poll() is None:
        _signal(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal(child.pid, signal.SIGKILL)
    child.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _read(stream: IO[bytes], sink: Callable[[str], None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under us when the child is ended
        for line in stream:
            sink(line.decode("utf-8", "replace").rstrip("\r\n"))
