"""The bodies that are being received: how large and how slow one may be, and whose has to go when memory is short."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from imageflow.api.problems import RequestProblem, busy

HELD = 16  # bodies of the largest size that are in memory at once, from all clients
STALL = 5.0  # seconds without a byte
SLOWEST = 1024  # bytes a second, on average
CLOSE = {"connection": "close"}  # the rest of the body is not read


@dataclass(slots=True, eq=False)
class Body:
    """How much of a request's body has arrived."""

    client: str
    begun: float
    last: float
    size: int = 0
    whole: bool = False
    lost: bool = False  # to a client that holds less
    timeout: asyncio.Timeout | None = field(default=None, repr=False)


class Bodies:
    """All bodies of one server. When memory is short, the client that holds most of it loses its oldest body."""

    def __init__(self, limit: int, patience: float) -> None:
        """`limit`: bytes of one body; `patience`: seconds for a whole one."""
        self.limit = limit
        self._patience = patience
        self._room = HELD * limit
        self._open: set[Body] = set()

    @contextmanager
    def one(self, client: str) -> Iterator[Body]:
        """The body of a request, held until the request is answered."""
        now = asyncio.get_running_loop().time()
        body = Body(client, now, now)
        self._open.add(body)
        try:
            yield body
        finally:
            self._open.discard(body)
            self._release(body)

    def too_large(self) -> RequestProblem:
        """The refusal of a body that is larger than the limit."""
        detail = f"the body is larger than {self.limit >> 10} KiB"
        return RequestProblem(413, "request.too-large", detail, hint="[api] max_body", headers=CLOSE)

    def bounded(self, receive: Receive, body: Body) -> Receive:
        """`receive` that raises RequestProblem when the body is too large, too slow, or has to go."""

        async def bounded() -> Message:
            if body.whole:
                return await receive()
            if body.lost:
                raise _too_many()
            try:
                async with asyncio.timeout_at(self._deadline(body)) as body.timeout:
                    message = await receive()
            except TimeoutError:
                raise _too_many() if body.lost else self._slow() from None
            finally:
                body.timeout = None
            self._arrived(body, message)
            return message

        return bounded

    def _deadline(self, body: Body) -> float:
        on_average = body.begun + STALL + body.size / SLOWEST
        return min(body.begun + self._patience, body.last + STALL, on_average)

    def _arrived(self, body: Body, message: Message) -> None:
        size = len(message.get("body", b""))
        if size:
            body.last = asyncio.get_running_loop().time()
        body.size += size
        self._room -= size
        body.whole = not message.get("more_body", False)
        if body.size > self.limit:
            raise self.too_large()
        while self._room < 0:
            loser = self._loser()
            if loser is None or loser is body:
                raise _too_many()
            self._drop(loser)

    def _loser(self) -> Body | None:
        """The oldest unfinished body of the client that holds most."""
        held: dict[str, int] = {}
        for one in self._open:
            held[one.client] = held.get(one.client, 0) + one.size
        waiting = [one for one in self._open if not one.whole and not one.lost and one.size]
        return min(waiting, key=lambda one: (-held[one.client], one.begun), default=None)

    def _drop(self, body: Body) -> None:
        body.lost = True
        self._release(body)
        if body.timeout is not None:
            with suppress(RuntimeError):  # its time is over just now
                body.timeout.reschedule(asyncio.get_running_loop().time())

    def _release(self, body: Body) -> None:
        self._room += body.size
        body.size = 0

    def _slow(self) -> RequestProblem:
        detail = f"the request was not complete within {self._patience:g} seconds, or stood still for {STALL:g}"
        return RequestProblem(408, "request.slow", detail, headers=CLOSE)


def _too_many() -> RequestProblem:
    return busy("too many large requests at once", CLOSE)
