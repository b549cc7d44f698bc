"""Pins the inputs of wanted images: once for all who want the same within some seconds."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from imageflow.builds.wanted import Wanted
from imageflow.errors import Unavailable
from imageflow.model import Json

_AT_ONCE = 8  # images whose inputs are pinned at a time: each may wait for repositories and mirrors of others
_MOST = 1000  # images whose pins are remembered


class _Pinned:
    """The pins of one image, and who finds them out now."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.wanted: Wanted | None = None
        self.until = 0.0


class Pinning:
    """Threads share it."""

    def __init__(self, fresh: float, patience: float) -> None:
        """`fresh`: seconds for which pins are taken for the present ones; `patience`: that one waits for a turn."""
        self._fresh = fresh
        self._patience = patience
        self._known: OrderedDict[str, _Pinned] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def wanted(self, canonical: Json, pin: Callable[[], Wanted]) -> Wanted:
        """The image as it would be built now; raises what `pin` raises, and Unavailable when too many are asked for."""
        key = hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()
        with self._lock:
            mine = self._known.setdefault(key, _Pinned())
            self._known.move_to_end(key)
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        if mine.wanted is not None and time.monotonic() < mine.until:
            return mine.wanted
        if not mine.turn.acquire(timeout=self._patience):
            raise Unavailable("the inputs of this image are being pinned", hint="ask again")
        try:
            if mine.wanted is None or time.monotonic() >= mine.until:
                mine.wanted = self._pinned(pin)
                mine.until = time.monotonic() + self._fresh
            return mine.wanted
        finally:
            mine.turn.release()

    def _pinned(self, pin: Callable[[], Wanted]) -> Wanted:
        if not self._places.acquire(timeout=self._patience):
            raise Unavailable(f"the inputs of {_AT_ONCE} images are being pinned already", hint="ask again")
        try:
            return pin()
        finally:
            self._places.release()
