"""Pins the inputs of wanted images: once for all who want the same within some seconds."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from imageflow.background.remembered import Remembered
from imageflow.builds.wanted import Wanted
from imageflow.errors import Unavailable
from imageflow.model import Json

_AT_ONCE = 8  # images whose inputs are pinned at a time: each may wait for repositories and mirrors of others
_MOST = 500  # images whose pins are remembered
_LARGE = 1 << 16  # characters of a recipe; the pins of a larger one are not remembered


class Pinning:
    """Threads share it."""

    def __init__(self, fresh: float, patience: float) -> None:
        """`fresh`: seconds for which pins are taken for the present ones; `patience`: that one waits for a turn."""
        self._fresh = fresh
        self._patience = patience
        self._known: Remembered[Wanted] = Remembered(_MOST)
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def wanted(self, canonical: Json, pin: Callable[[], Wanted]) -> Wanted:
        """The image as it would be built now; raises what `pin` raises, and Unavailable when too many are asked for."""
        text = json.dumps(canonical, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        if (known := self._known.get(key)) is not None:
            return known
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())  # gone when nobody holds or awaits it
        if not turn.acquire(timeout=self._patience):
            raise Unavailable("the inputs of this image are being pinned", hint="ask again")
        try:
            if (known := self._known.get(key)) is not None:
                return known
            found = self._pinned(pin)
            if len(text) <= _LARGE:
                self._known.set(key, found, self._fresh)
            return found
        finally:
            turn.release()

    def _pinned(self, pin: Callable[[], Wanted]) -> Wanted:
        if not self._places.acquire(timeout=self._patience):
            raise Unavailable(f"the inputs of {_AT_ONCE} images are being pinned already", hint="ask again")
        try:
            return pin()
        finally:
            self._places.release()
