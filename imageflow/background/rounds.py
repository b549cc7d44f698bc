"""Polls many places, each at its own interval, a few at once; a failing one is polled less and less often."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.errors import Cancelled, ImageflowError
from imageflow.host.control import Control

LOG = logging.getLogger(__name__)
T = TypeVar("T")
LONGEST = 3600.0  # seconds between two looks at a failing place, at most


@dataclass
class _Place:
    every: float
    due: float
    running: bool = False
    failures: int = 0
    trouble: str = ""  # the last failure that was logged


class Rounds(Generic[T]):
    """Use it in a `with`, from one thread: `keep` sets what to look at, `results` starts looks and returns answers.

    `look` is called in other threads with a place and a Control that ends it when `stop` is set. What it raises
    is logged once, until the place answers again.
    """

    def __init__(
        self,
        look: Callable[[str, Control], T],
        stop: Flag,
        *,
        name: Callable[[str], str],
        workers: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: how the log names a place."""
        self._look = look
        self._stop = stop
        self._name = name
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._running: dict[Future[T], str] = {}
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="look")

    def __enter__(self) -> Rounds[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    _stopping = False

    def keep(self, places: Mapping[str, float]) -> None:
        """Look at these from now on: place -> seconds between two looks. A new place is looked at immediately."""
        for gone in self._places.keys() - places.keys():
            del self._places[gone]
        for key, every in places.items():
            if key not in self._places:
                self._places[key] = _Place(every, self._clock())
            elif every < self._places[key].every and not self._places[key].failures:
                self._places[key].due = min(self._places[key].due, self._clock() + every)
            self._places[key].every = every

    def again(self, key: str, seconds: float) -> None:
        """Look at this place again in `seconds`, before its turn."""
        if key in self._places:
            self._places[key].due = min(self._places[key].due, self._clock() + seconds)

    def results(self) -> list[tuple[str, T]]:
        """The answers since the last call; also starts the looks that are due."""
        answers = []
        for future in [future for future in self._running if future.done()]:
            key = self._running.pop(future)
            place = self._places.get(key)
            if place is None:
                continue
            place.running = False
            place.due = self._clock() + place.every
            error = future.exception()
            if error is None:
                self._answered(key, place)
                answers.append((key, future.result()))
            else:
                self._failed(key, place, error)
        waiting = [key for key, place in self._places.items() if not place.running and place.due <= self._clock()]
        for key in sorted(waiting, key=lambda key: self._places[key].due)[: 2 * self._workers - len(self._running)]:
            self._places[key].running = True
            self._running[self._pool.submit(self._look, key, Control(guard=self._guard))] = key
        return answers

    def _guard(self) -> None:
        if self._stopping or self._stop.is_set():
            raise Cancelled("imageflow stops")

    def _answered(self, key: str, place: _Place) -> None:
        if place.failures:
            LOG.info("%s can be seen again", self._name(key))
        place.failures, place.trouble = 0, ""

    def _failed(self, key: str, place: _Place, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            return
        place.failures += 1
        backoff = Backoff(first=2 * place.every, most=max(LONGEST, place.every))
        place.due = self._clock() + backoff.after(place.failures)
        if isinstance(error, ImageflowError):
            trouble = error.message + (f" ({error.hint})" if error.hint else "")
        else:
            trouble = f"{type(error).__name__}: {error}"
        if not place.trouble:
            bug = None if isinstance(error, ImageflowError) else error
            LOG.warning("%s can't be looked at: %s", self._name(key), trouble, exc_info=bug)
        place.trouble = trouble
