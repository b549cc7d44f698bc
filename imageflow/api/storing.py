"""Runs a request's database work in a thread, for no longer than a sender waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import to_thread

from imageflow.api.problems import RequestProblem, busy

P = ParamSpec("P")
R = TypeVar("R")
ANSWER = 9.0  # seconds until the response: GitHub and Bitbucket give up after ten


def away() -> RequestProblem:
    """The response to the sender."""
    return busy("this can't be stored now")


async def in_thread(work: Callable[P, R], *args: P.args, **values: P.kwargs) -> R:
    """The result of `work`; raises RequestProblem when it takes too long. It may still finish then: an event sent again is deduplicated."""
    try:
        async with asyncio.timeout(ANSWER):
            return await to_thread.run_sync(partial(work, *args, **values), abandon_on_cancel=True)
    except TimeoutError:
        raise away() from None
