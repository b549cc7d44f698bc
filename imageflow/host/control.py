"""Stops a running step from outside: on a cancel, a deadline, or the loss of the claim."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from imageflow.errors import ImageflowError, TimedOut


class Control:
    """The stop switch of one build; one per run, shared by its tasks and the conductor's threads.

    Long-running code calls `check()` now and then, or waits with `wait()`; `process.run` does both and ends its
    children. Deadlines are `time.monotonic()` seconds.
    """

    def __init__(
        self, deadline: float | None = None, build_id: str = "", guard: Callable[[], None] = lambda: None
    ) -> None:
        """`guard` raises when the worker has lost the build; it is called at every `check()`."""
        self._guard = guard
        self.build_id = build_id  # in the environment of every child process, so that it can be found
        self.yields = False  # whether to raise NoRoom instead of waiting for other builds' machines
        self._build_deadline = deadline
        self._step_deadline: float | None = None
        self._step = ""
        self._part: tuple[float, str] | None = None
        self._look: tuple[Callable[[], None], float, float] | None = None  # function, interval in seconds, next time
        self._event = threading.Event()
        self._why: ImageflowError | None = None
        self._lock = threading.Lock()

    def limit(self, deadline: float) -> None:
        """Set the deadline of the whole build."""
        self._build_deadline = deadline

    def begin_step(self, name: str, timeout: float | None) -> None:
        """Start a new step, with its own time limit in seconds from now."""
        self._step = name
        self._step_deadline = None if timeout is None else time.monotonic() + timeout

    @contextlib.contextmanager
    def at_most(self, seconds: float, what: str) -> Iterator[None]:
        """In the block, a part of a step has its own time limit."""
        before = self._part
        end = time.monotonic() + seconds
        self._part = (end, what) if before is None or end < before[0] else before
        try:
            yield
        finally:
            self._part = before

    @contextlib.contextmanager
    def not_counted(self) -> Iterator[None]:
        """In the block, time spent waiting for other builds counts for the build's limit, not for the step's."""
        began, deadline = time.monotonic(), self._step_deadline
        self._step_deadline = None
        try:
            yield
        finally:
            self._step_deadline = None if deadline is None else deadline + time.monotonic() - began

    @contextlib.contextmanager
    def watched(self, look: Callable[[], None], every: float = 1.5) -> Iterator[None]:
        """In the block, `check()` also calls `look` every `every` seconds; what it raises ends the block."""
        before, self._look = self._look, (look, every, time.monotonic() + every)
        try:
            yield
        finally:
            self._look = before

    def stop(self, why: ImageflowError) -> None:
        """Make every `check()` and `wait()` raise `why` from now on; the first reason stays."""
        with self._lock:
            if self._why is None:
                self._why = why
        self._event.set()

    @property
    def stopped(self) -> ImageflowError | None:
        """The reason to stop, or None."""
        return self._why

    def check(self) -> None:
        """Raise the reason to stop, if there is one; TimedOut when a deadline has passed."""
        if self._why is not None:
            raise self._why
        self._guard()
        now = time.monotonic()
        if self._look is not None and now > self._look[2]:
            look, every, _ = self._look
            self._look = None  # it may call check() itself
            look()
            self._look = (look, every, time.monotonic() + every)
        if self._part is not None and now > self._part[0]:
            raise TimedOut(f"{self._part[1]} took longer than its limit", hint="raise its timeout in the recipe")
        if self._step_deadline is not None and now > self._step_deadline:
            raise TimedOut(
                f"step {self._step!r} took longer than its limit",
                hint="raise timeout.step (or the timeout of its entry in configure) in the recipe, or find out what hangs in the build log",
            )
        if self._build_deadline is not None and now > self._build_deadline:
            raise TimedOut(
                "the build took longer than its limit",
                hint="raise timeout.build in the recipe, or find out what hangs in the build log",
            )

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until there is a reason to stop, which is raised."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            self._event.wait(min(left, 0.5))
        self.check()
