"""uvicorn's HTTP/1.1, with an end to the patience that it has with slow and many clients."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from imageflow.api.problems import REQUEST_ID, Problem, new_request_id, render

CONNECTIONS = 500  # at once; below what a process may open by default


class PatientProtocol(H11Protocol):
    """One connection; closed when the head of a request is not there in time, and when there are too many."""

    patience = 30.0  # seconds

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.access_log = False  # whatever the logging is set up to: queries may hold what is secret
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP; silence where an answer is on its way already."""
        if self.conn.our_state is not h11.IDLE:
            self.transport.close()
            return
        name = new_request_id()
        response = render(Problem(400, "request.malformed", msg), name)
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


def protocol_with(patience: float) -> type[PatientProtocol]:
    """The class with that many seconds of patience: uvicorn makes its objects itself."""
    return type("PatientProtocol", (PatientProtocol,), {"patience": patience})
