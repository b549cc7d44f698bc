"""Work of a request that waits for the database: in a thread, and not for longer than a sender waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import to_thread

from imageflow.api.problems import Problem, busy

P = ParamSpec("P")
R = TypeVar("R")
ANSWER = 9.0  # seconds until the answer: GitHub and Bitbucket give up after ten


def away() -> Problem:
    """What the sender is told."""
    return busy("this can't be stored now")


async def in_thread(work: Callable[P, R], *args: P.args, **values: P.kwargs) -> R:
    """What `work` returns; raises Problem when it takes too long. It may still end then: the same event again is one."""
    try:
        async with asyncio.timeout(ANSWER):
            return await to_thread.run_sync(partial(work, *args, **values), abandon_on_cancel=True)
    except TimeoutError:
        raise away() from None
