"""Functions that take too much of something, to be called in a child process."""

from __future__ import annotations

import os
import signal
import time

from imageflow.errors import NotFound


def echo(*given: object) -> object:
    print("this is no result")
    return list(given)


def memory(size: int) -> int:
    return len(b"x" * size)


def processor() -> None:
    while True:
        pass


def wall() -> None:
    time.sleep(600)


def output(size: int) -> str:
    return "x" * size


def death(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> None:
    raise NotFound("there is no such thing", hint="look elsewhere")


def bug() -> None:
    raise ZeroDivisionError("a bug of ours")


def surroundings() -> dict[str, str]:
    return dict(os.environ)
