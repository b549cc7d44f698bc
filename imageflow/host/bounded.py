"""Calls one of our functions in a child process that may use only so much memory, processor time and output.

For what strangers wrote: recipes from git, templates, media. Python can't stop a thread that computes or allocates
too much; a process it can end, and the worker lives on.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imageflow import errors
from imageflow.errors import CommandFailed, Exceeded, ImageflowError, Refused, TimedOut
from imageflow.host import environment, process
from imageflow.host.control import Control

_OUT_OF_MEMORY = 97  # exit code of the child
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a call may use."""

    memory: int = 1024 * _MIB  # bytes of the process's data
    processor: int = 60  # seconds
    wall: float = 300.0  # seconds, for one that waits
    output: int = 64 * _MIB  # bytes of its result as JSON


def call(
    function: Callable[..., Any], *arguments: Any, control: Control, what: str, bounds: Bounds | None = None
) -> Any:
    """The result of a module's function in a child process; the arguments are pickled, the result goes through JSON.

    `what` is named in messages. Raises Exceeded when a bound is reached, the ImageflowError that the function raised,
    and what `control` says.
    """
    bounds = bounds or Bounds()
    request = pickle.dumps((sys.path, bounds, pickle.dumps((function, arguments))))
    command = [sys.executable, "-P", "-m", __name__]
    passed = environment.passed("ELEMENTS_PATH", "PYTHONPATH")
    run = functools.partial(process.run, capture=True, most=bounds.output, given=request, env=passed, name=what)
    try:
        with control.at_most(bounds.wall, what):
            text = run(command, control=control)
    except TimedOut as error:
        if not error.message.startswith(what):
            raise
        raise _exceeded(what, f"{bounds.wall:.0f} s") from None
    except Exceeded:
        raise _exceeded(what, f"{bounds.output // _MIB} MiB of output") from None
    except CommandFailed as error:
        raise _death(error, what, bounds) from None
    answer = json.loads(text)
    if "error" in answer:
        raise _raised(**answer["error"])
    return answer["result"]


def _exceeded(what: str, bound: str) -> Exceeded:
    return Exceeded(f"{what} took more than {bound}")


def _death(error: CommandFailed, what: str, bounds: Bounds) -> ImageflowError:
    """Why the child has no result."""
    if error.message.endswith(f"exit code {_OUT_OF_MEMORY}"):
        return _exceeded(what, f"{bounds.memory // _MIB} MiB of memory")
    if error.message.endswith(signal.SIGXCPU.name):
        return _exceeded(what, f"{bounds.processor} s of processor time")
    if error.message.endswith((signal.SIGKILL.name, signal.SIGSEGV.name, signal.SIGABRT.name)):
        return Exceeded(error.message)
    return error


def _raised(kind: str, message: str, hint: str) -> ImageflowError:
    """The error that the function raised; of a class that is not ours, a Refused."""
    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, ImageflowError)):
        found = Refused
    error = found.__new__(found)
    ImageflowError.__init__(error, message, hint=hint)
    return error


# -- in the child ------------------------------------------------------------------------------------


def main() -> int:
    """Call the function of the request in standard input; -> the exit code."""
    result = os.dup(1)
    os.dup2(2, 1)  # what the function prints is no result
    try:
        sys.path[:], bounds, asked = pickle.load(sys.stdin.buffer)  # noqa: S301  # our parent has just written it
        function, arguments = pickle.loads(asked)  # noqa: S301
        _bind(bounds)
        try:
            answer = {"result": function(*arguments)}
        except ImageflowError as error:
            answer = {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
        data = json.dumps(answer).encode()
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    with open(result, "wb") as out:
        out.write(data)
    return 0


def _bind(bounds: Bounds) -> None:
    """Set the limits of this process; not of its address space, which threads and mapped files use freely."""
    for limit, most in ((resource.RLIMIT_DATA, bounds.memory), (resource.RLIMIT_CPU, bounds.processor)):
        hard = resource.getrlimit(limit)[1]  # of a process in one that has limits itself: it can't be raised
        most = most if hard == resource.RLIM_INFINITY else min(most, hard - 1)
        resource.setrlimit(limit, (most, most + 1))  # SIGXCPU comes first, and says why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
