"""Gerrit's stream-events over SSH; after each connect, a query for missed merges."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import paramiko

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.errors import BadInput, ConfigError, DatabaseUnavailable, ImageflowError, Refused, Unavailable
from imageflow.listeners import Surroundings, gerrit_lines
from imageflow.model import Event

LOG = logging.getLogger(__name__)
_THEIRS = logging.getLogger(f"{__name__}.paramiko")
_THEIRS.setLevel(logging.CRITICAL)  # failures are reported here, in words and once
PAUSE = (1.0, 60.0)  # seconds until the next connect: the first time, and at most
STORING = (0.5, 10.0)  # seconds until storing an event is retried while the database is down: as PAUSE
_T = TypeVar("_T")
_CONNECT = 20.0  # seconds for each stage of a connect
_STEADY = 30.0  # seconds after which a connection counts as healthy
_KEEPALIVE = 15  # seconds
_SILENCE = 60_000  # milliseconds that sent data may stay unacknowledged by the other kernel
_OVERLAP = 120.0  # seconds by which a query overlaps the known past
_ROWS = 200  # changes per answer to a query
_MOST = 20_000  # changes that are queried after a reconnect
_PATIENCE = 120.0  # seconds for the answer to a query
_PAGE = 64 << 20  # bytes of one answer
_PIECE = 1 << 16
_QUARANTINE = 1 << 16


class GerritListener:
    """The listener. The time of the last event is one observation."""

    def __init__(self, surroundings: Surroundings, pause: tuple[float, float] = PAUSE) -> None:
        self._config = surroundings.config.gerrit
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._pause = pause
        self._last = 0.0  # time of the last event
        self._heard = False  # whether this session has received anything

    def run(self, stop: Flag) -> None:
        """See Listener."""
        self._check()
        backoff, trouble = Backoff(*self._pause), ""
        while not stop.is_set():
            self._heard, began = False, time.monotonic()
            try:
                self._session(stop)
                return
            except (DatabaseUnavailable, ConfigError):
                raise
            except ImageflowError as error:
                if self._heard or time.monotonic() - began > _STEADY:
                    backoff.reset()
                    trouble = ""
                if error.message != trouble:
                    LOG.warning("%s%s", error.message, f" ({error.hint})" if error.hint else "")
                trouble = error.message
            backoff.wait(stop)

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def _check(self) -> None:
        for option in ("host", "user"):
            if not getattr(self._config, option):
                raise ConfigError(
                    f"the listener gerrit needs [gerrit] {option}", hint="or take it out of [listeners] enabled"
                )
        known = self._config.known_hosts
        if known and not os.access(Path(known).expanduser(), os.R_OK):
            raise ConfigError(f"[gerrit] known_hosts: {known} can't be read", hint="check the path and its permissions")
        _key(self._config.key)

    def _session(self, stop: Flag) -> None:
        """One connection, until `stop` or its end, which is raised."""
        client = self._connect()
        try:
            transport = client.get_transport()
            assert transport is not None
            transport.set_keepalive(_KEEPALIVE)
            stream = self._command(transport, "gerrit stream-events")  # before the query: no event falls between them
            self._catch_up(transport, stop)
            self._ready(f"stream-events of {self._where}")
            self._listen(stream, transport, stop)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Unavailable(f"the connection to Gerrit at {self._where} is lost: {_said(error)}") from None
        finally:
            client.close()

    def _connect(self) -> paramiko.SSHClient:
        config = self._config
        client = paramiko.SSHClient()
        client.set_log_channel(_THEIRS.name)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        hint = (
            f"ssh-keyscan -p {config.port} {config.host}, compare it with what Gerrit's administrator says, and add it"
        )
        try:
            if config.known_hosts:
                client.load_host_keys(str(Path(config.known_hosts).expanduser()))
            else:
                client.load_system_host_keys()
            key = _key(config.key)
            assert config.host is not None
            sock = socket.create_connection((config.host, config.port), timeout=_CONNECT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE)
            client.connect(
                config.host,
                config.port,
                config.user,
                pkey=key,
                allow_agent=not config.key,
                look_for_keys=not config.key,
                sock=sock,
                timeout=_CONNECT,
                banner_timeout=_CONNECT,
                auth_timeout=_CONNECT,
            )
        except ConfigError as error:  # it was valid when we began
            raise Refused(error.message, hint=error.hint) from None
        except paramiko.hostkeys.InvalidHostKey as error:
            raise Refused(f"[gerrit] known_hosts has an invalid line: {error.line.strip()[:100]}") from None
        except paramiko.BadHostKeyException as error:
            client.close()
            shown = error.key.fingerprint
            raise Refused(
                f"Gerrit at {self._where} shows a different host key than the known one: {shown}", hint=hint
            ) from None
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            client.close()
            if "not found in known_hosts" in str(error):
                raise Refused(f"the host key of Gerrit at {self._where} is not known", hint=hint) from None
            if isinstance(error, paramiko.AuthenticationException):
                raise Refused(
                    f"Gerrit at {self._where} does not let {config.user} in: {_said(error)}",
                    hint="check [gerrit] user and key, and the keys of that account in Gerrit",
                ) from None
            raise Unavailable(f"Gerrit at {self._where} can't be reached: {_said(error)}") from None
        return client

    @staticmethod
    def _command(transport: paramiko.Transport, line: str) -> paramiko.Channel:
        channel = transport.open_session(timeout=_CONNECT)
        channel.settimeout(_CONNECT)
        channel.exec_command(line)
        channel.settimeout(0.5)
        return channel

    def _listen(self, stream: paramiko.Channel, transport: paramiko.Transport, stop: Flag) -> None:
        lines = gerrit_lines.LineBuffer()
        for data in _pieces(stream, transport, stop):
            lines, whole = lines.feed(data)
            self._heard = self._heard or bool(whole)
            self._take(whole, stop)
        if stop.is_set():
            return
        said = stream.recv_stderr(500).decode(errors="replace").strip() if stream.recv_stderr_ready() else ""
        raise Unavailable(f"Gerrit at {self._where} ended the stream" + (f": {said!r}" if said else ""))

    def _take(self, lines: list[bytes], stop: Flag) -> None:
        """Receive lines of the stream, then remember the position."""
        found: list[Event] = []
        last = self._last
        for line in lines:
            if not line.strip():
                continue
            try:
                events, when = gerrit_lines.read(line)
            except BadInput as error:
                raw, why = line[:_QUARANTINE], error.message
                self._patiently(lambda raw=raw, why=why: self._quarantine(raw, why), stop)  # type: ignore[misc]
                continue
            found += events
            last = max(last, when or 0.0)
        self._receive(found, stop)
        if last > self._last:
            self._patiently(lambda: self._watched.see(self._name, repr(last)), stop)
            self._last = last

    def _quarantine(self, raw: bytes, why: str) -> None:
        self._inbox.quarantine("gerrit", f"gerrit:{self._where}", raw, why)

    def _receive(self, events: list[Event], stop: Flag) -> None:
        if not events:
            return
        try:
            self._patiently(lambda: self._inbox.receive(events, listener="gerrit"), stop)
        except BadInput as error:
            if len(events) == 1:
                raw, why = json.dumps([events[0].type, events[0].id]).encode(), error.message
                self._patiently(lambda: self._quarantine(raw, why), stop)
                return
            for event in events:
                self._receive([event], stop)

    def _patiently(self, call: Callable[[], _T], stop: Flag) -> _T:
        """Gerrit sends nothing twice: while the database is down, reading from it pauses."""
        backoff = Backoff(*STORING)
        while True:
            try:
                return call()
            except DatabaseUnavailable as error:
                if stop.is_set():
                    raise
                LOG.warning("gerrit: %s; events wait", error.message)
                backoff.wait(stop)

    @property
    def _name(self) -> str:
        return f"gerrit:{self._where}"

    def _catch_up(self, transport: paramiko.Transport, stop: Flag) -> None:
        """Receive what was merged since the last known event; the first time there is none."""
        seen = self._patiently(lambda: self._watched.seen(self._name), stop)
        try:
            self._last = float(seen[0]) if seen else 0.0
        except ValueError:
            self._last = seen[1] if seen else 0.0
        if not self._last:
            self._last = time.time()
            self._patiently(lambda: self._watched.see(self._name, repr(self._last)), stop)
            return
        since = self._last - _OVERLAP
        start = 0
        found: list[Event] = []
        while not stop.is_set():
            try:
                page = gerrit_lines.read_query(self._query(transport, since, start, stop), since)
            except BadInput as error:
                LOG.warning("merges at Gerrit while imageflow did not listen are unknown: %s", error.message)
                return
            found += page.events
            start += page.rows
            if not page.more or not page.rows:
                break
            if start >= _MOST:
                LOG.warning(
                    "more than %d changes were merged at Gerrit in the meantime: the older ones are left out", start
                )
                break
        found.reverse()  # Gerrit sends the newest one first
        found.sort(key=lambda event: event.time or 0.0)
        for first in range(0, len(found), 500):
            self._receive(found[first : first + 500], stop)

    def _query(self, transport: paramiko.Transport, since: float, start: int, stop: Flag) -> list[bytes]:
        when = datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S +0000")
        query = f"'status:merged since:{{{when}}} limit:{_ROWS}'"
        with self._command(
            transport, f"gerrit query --format=JSON --current-patch-set --start {start} {query}"
        ) as channel:
            answer, end = bytearray(), time.monotonic() + _PATIENCE
            for data in _pieces(channel, transport, stop):
                answer += data
                if len(answer) > _PAGE or time.monotonic() > end:
                    raise Unavailable(f"Gerrit at {self._where} does not finish its answer to a query")
            lines = bytes(answer).split(b"\n")
            if not stop.is_set() and not any(b'"stats"' in line or b'"error"' in line for line in lines[-3:]):
                raise Unavailable(f"Gerrit at {self._where} answered a query only partly")
            return lines


def _key(file: str | None) -> paramiko.PKey | None:
    """The private key; paramiko's own loader gives no useful message when a key is rejected."""
    if not file:
        return None
    try:
        return paramiko.PKey.from_path(Path(file).expanduser())
    except paramiko.PasswordRequiredException:
        raise ConfigError(f"[gerrit] key: {file} has a passphrase", hint="use an ssh-agent, or a key without") from None
    except (OSError, ValueError, TypeError, paramiko.SSHException, paramiko.UnknownKeyType) as error:
        why = getattr(error, "strerror", None) or "it is not a private key"
        raise ConfigError(f"[gerrit] key: {file} can't be used: {why}", hint="a file that ssh -i takes") from None


def _pieces(channel: paramiko.Channel, transport: paramiko.Transport, stop: Flag) -> Iterator[bytes]:
    """Incoming pieces, until the end or `stop`; b'' when nothing came for a moment."""
    while not stop.is_set():
        try:
            data = channel.recv(_PIECE)
        except TimeoutError:
            if not transport.is_active():
                return
            yield b""
            continue
        if not data:
            return
        yield data


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)[:300]
