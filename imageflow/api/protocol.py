"""uvicorn's HTTP/1.1 protocol, with limits for slow and for many clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from imageflow.api.clients import Clients, name_of
from imageflow.api.problems import REQUEST_ID, RequestProblem, new_request_id, render

CONNECTIONS = 500  # open at once; below the default limit of open files


class PatientProtocol(H11Protocol):
    """One connection; closed when a request's head does not arrive in time, or when there are too many."""

    patience = 30.0  # seconds
    clients = Clients(())

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.access_log = False  # in any logging configuration: queries may hold secrets
        self._overdue: asyncio.TimerHandle | None = None
        self.made = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._one_less()
        if not transport.is_closing():
            self._watch()

    def _one_less(self) -> None:
        """Close a connection of the client that has most of them: the oldest on which nothing is under way."""
        clients = {one: name_of(one.client[0]) for one in self._all() if one.client}
        known = {one: name for one, name in clients.items() if one.client and not self.clients.is_proxy(one.client[0])}
        counts = Counter((known or clients).values())
        loser = min(known or clients, key=lambda one: (-counts[clients[one]], one.busy, one.made), default=self)
        loser.transport.abort()
        self.connections.discard(loser)

    def _all(self) -> list[PatientProtocol]:
        return [one for one in self.connections if isinstance(one, PatientProtocol)]

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is not HTTP; nothing when a response has already begun."""
        if self.conn.our_state is not h11.IDLE:
            self.transport.close()
            return
        name = new_request_id()
        response = render(RequestProblem(400, "request.malformed", msg), name)
        headers = [*response.raw_headers, (b"connection", b"close"), (REQUEST_ID.encode(), name.encode())]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._unwatch()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(self.patience, self.transport.abort)

    def _unwatch(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


def protocol_with(patience: float, clients: Clients) -> type[PatientProtocol]:
    """The class with this patience in seconds: uvicorn creates the instances itself."""
    return type("PatientProtocol", (PatientProtocol,), {"patience": patience, "clients": clients})
