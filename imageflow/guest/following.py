"""Follows a command in a machine to its end: output, exit code, and whether the machine still answers."""

from __future__ import annotations

import contextlib
import select
import threading
import time

import paramiko

from imageflow.errors import Unavailable
from imageflow.host.child_output import Lines
from imageflow.host.control import Control

KEPT = 1 << 20  # bytes of standard output that are returned: the last ones
_CHECK = 0.25  # seconds between two looks at `control`
_LINGER = 1.0  # seconds that processes left by the command may go on writing
_QUIET = 30.0  # seconds without output after which the machine is probed
_ANSWER = 90.0  # seconds that the answer to a probe may take


def follow(
    channel: paramiko.Channel,
    transport: paramiko.Transport,
    control: Control,
    out: Lines,
    err: Lines,
    keep: int = KEPT,
) -> bytes:
    """Wait for the command to end; -> the last `keep` bytes (or slightly more) of its standard output.

    Raises Unavailable when the connection is lost, and what `control` raises.
    """
    kept = bytearray()
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    heard, ended = time.monotonic(), 0.0
    pulse: _Pulse | None = None
    while True:
        control.check()
        got = _read(channel, kept, keep, out, err)
        now = time.monotonic()
        if got:
            heard, pulse = now, None
            continue
        if channel.closed or (channel.exit_status_ready() and channel.eof_received):
            break
        if channel.exit_status_ready():
            ended = ended or now
            if now - max(heard, ended) > _LINGER:
                break  # a process it started still holds its output open
        if not transport.is_active():
            raise Unavailable("the connection to the machine was lost")
        if now - heard > _QUIET and pulse is None:
            pulse = _Pulse(transport)
        if pulse is not None and pulse.answered:
            heard, pulse = now, None
        if pulse is not None and now - pulse.since > _ANSWER:
            transport.close()
            raise Unavailable("the machine does not answer any more")
        if channel.eof_received:
            channel.status_event.wait(0.05)
        else:
            poll.poll(_CHECK * 1000)
    while _read(channel, kept, keep, out, err):
        control.check()
    if channel.exit_status < 0 and not _alive(transport):
        raise Unavailable("the connection to the machine was lost")
    out.feed(b"")
    err.feed(b"")
    return bytes(kept)


def _read(channel: paramiko.Channel, kept: bytearray, keep: int, out: Lines, err: Lines) -> bool:
    """Read the available output; -> whether there was any."""
    got = False
    if channel.recv_ready():
        data = channel.recv(1 << 17)
        got = bool(data)
        if data:
            kept += data
            if len(kept) > 2 * keep:
                del kept[:-keep]
            out.feed(data)
    if channel.recv_stderr_ready():
        data = channel.recv_stderr(1 << 17)
        got = got or bool(data)
        if data:
            err.feed(data)
    return got


def _alive(transport: paramiko.Transport) -> bool:
    """Whether the other end still answers; a channel closed without an exit code may mean that it does not."""
    pulse = _Pulse(transport)
    pulse.join(10)
    return pulse.answered and transport.is_active()


class _Pulse(threading.Thread):
    """Asks the server for a keep-alive answer."""

    def __init__(self, transport: paramiko.Transport) -> None:
        super().__init__(name="pulse", daemon=True)
        self._transport = transport
        self.since = time.monotonic()
        self.answered = False
        self.start()

    def run(self) -> None:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._transport.global_request("keepalive@imageflow", wait=True)
            self.answered = self._transport.is_active()
