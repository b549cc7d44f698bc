"""Whether events can be stored now, for load balancers: `GET /readyz`."""

from __future__ import annotations

import asyncio
import logging
import time

from imageflow.api.problems import RequestProblem, busy
from imageflow.api.storing import in_thread
from imageflow.errors import DatabaseReadOnly, DatabaseUnavailable, ImageflowError, InboxFull, NoSpace
from imageflow.listeners import Inbox

LOG = logging.getLogger(__name__)
_FRESH = 1.0  # seconds for which an answer counts: many clients cause no more writes than one
_REASONS = (  # for strangers: no paths and no addresses
    (InboxFull, "there are too many events that wait"),
    (NoSpace, "there is no space left for events"),
    (DatabaseReadOnly, "the database takes no writes now"),
    (DatabaseUnavailable, "the database does not answer"),
)


class Readiness:
    """Tries what a request would do; one attempt at a time, its result shared by all who ask meanwhile."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._turn = asyncio.Lock()
        self._looked = float("-inf")
        self._why: str | None = None

    async def require(self) -> None:
        """Raise RequestProblem, 503, with the reason when a POST would get a 503 now."""
        async with self._turn:
            if time.monotonic() - self._looked > _FRESH:
                why = await self._look()
                if why is not None and why != self._why:
                    LOG.warning("not ready: %s", why)
                self._why, self._looked = why, time.monotonic()
        if self._why is not None:
            raise busy(self._why)

    async def _look(self) -> str | None:
        try:
            await in_thread(self._inbox.ready)
        except RequestProblem:
            return "the database is too slow"
        except ImageflowError as error:
            return next((words for kind, words in _REASONS if isinstance(error, kind)), "events can't be stored now")
        return None
