"""Counts wrong tokens by client: guessing is slow, and does not make us ask keystone for each guess."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

from imageflow.api.problems import RequestProblem

MOST = 20  # wrong tokens of a client in a window
WINDOW = 60.0  # seconds
_CLIENTS = 10_000  # that are counted; of more, the first are forgotten


class Failures:
    """Used on the event loop only."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # client -> when it began, how many

    def begin(self, client: str) -> None:
        """Count an attempt before it is made, so that many at once are counted, too; raises RequestProblem."""
        now = time.monotonic()
        began, count = self._rows.get(client, (now, 0))
        if now - began >= WINDOW:
            began, count = now, 0
        if count >= MOST:
            raise RequestProblem(
                429,
                "access.wrong-tokens",
                f"{MOST} wrong tokens came from this client within {WINDOW:.0f} seconds",
                hint="'imageflow token list' shows which tokens are valid",
                headers={"retry-after": str(math.ceil(began + WINDOW - now))},
            )
        self._rows[client] = (began, count + 1)
        self._rows.move_to_end(client)
        while len(self._rows) > _CLIENTS:
            self._rows.popitem(last=False)

    def forgive(self, client: str) -> None:
        """It was no wrong token after all."""
        if client in self._rows:
            began, count = self._rows[client]
            self._rows[client] = (began, max(0, count - 1))
