"""Gerrit's stream-events over SSH; after each connect a query for the merges that were missed."""

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

from imageflow.errors import BadInput, ConfigError, DatabaseUnavailable, ImageflowError, Refused, Unavailable
from imageflow.listeners import Surroundings, gerrit_lines
from imageflow.model import Event
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
_THEIRS = logging.getLogger(f"{__name__}.paramiko")
_THEIRS.setLevel(logging.CRITICAL)  # what goes wrong is said here, in words and once
PAUSE = (1.0, 60.0)  # seconds until the next connect: the first time, and at most
_T = TypeVar("_T")
_CONNECT = 20.0  # seconds for each stage of a connect
_STEADY = 30.0  # seconds after which a connection is taken for sound
_KEEPALIVE = 15  # seconds
_SILENCE = 60_000  # milliseconds that what we sent may stay unanswered by the other machine's kernel
_OVERLAP = 120.0  # seconds that a query goes further back
_ROWS = 200  # changes that a query tells at once
_MOST = 20_000  # changes that are asked for after a reconnect
_PATIENCE = 120.0  # seconds for the answer to a query
_PAGE = 64 << 20  # bytes of one
_PIECE = 1 << 16
_QUARANTINE = 1 << 16


class GerritListener:
    """The listener. When the last event was made is one observation."""

    def __init__(self, surroundings: Surroundings, pause: tuple[float, float] = PAUSE) -> None:
        self._config = surroundings.config.gerrit
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._pause = pause
        self._last = 0.0  # when the last event was made
        self._heard = False  # something in this session

    def run(self, stop: Flag) -> None:
        """See Listener."""
        self._check()
        pause, trouble = self._pause[0], ""
        while not stop.is_set():
            self._heard, began = False, time.monotonic()
            try:
                self._session(stop)
                return
            except (DatabaseUnavailable, ConfigError):
                raise
            except ImageflowError as error:
                if self._heard or time.monotonic() - began > _STEADY:
                    pause, trouble = self._pause[0], ""
                if error.message != trouble:
                    LOG.warning("%s%s", error.message, f" ({error.hint})" if error.hint else "")
                trouble = error.message
            stop.wait(pause)
            pause = min(pause * 2, self._pause[1])

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
            stream = self._command(transport, "gerrit stream-events")  # before the query: nothing falls between them
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
        except ConfigError as error:  # it was fine when we began
            raise Refused(error.message, hint=error.hint) from None
        except paramiko.hostkeys.InvalidHostKey as error:
            raise Refused(f"[gerrit] known_hosts has a line that is none: {error.line.strip()[:100]}") from None
        except paramiko.BadHostKeyException as error:
            client.close()
            shown = error.key.fingerprint
            raise Refused(
                f"Gerrit at {self._where} shows another host key than the known one: {shown}", hint=hint
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
        lines = gerrit_lines.Lines()
        for data in _pieces(stream, transport, stop):
            lines, whole = lines.feed(data)
            self._heard = self._heard or bool(whole)
            self._take(whole, stop)
        if stop.is_set():
            return
        said = stream.recv_stderr(500).decode(errors="replace").strip() if stream.recv_stderr_ready() else ""
        raise Unavailable(f"Gerrit at {self._where} ended the stream" + (f": {said!r}" if said else ""))

    def _take(self, lines: list[bytes], stop: Flag) -> None:
        """Lines of the stream: received, then remembered how far we are."""
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
        """Gerrit sends nothing twice: while the database is away, it waits with what it has to say."""
        pause = 0.5
        while True:
            try:
                return call()
            except DatabaseUnavailable as error:
                if stop.is_set():
                    raise
                LOG.warning("gerrit: %s; events wait", error.message)
                stop.wait(pause)
                pause = min(pause * 2, 10.0)

    @property
    def _name(self) -> str:
        return f"gerrit:{self._where}"

    def _catch_up(self, transport: paramiko.Transport, stop: Flag) -> None:
        """What was merged since the last event that we know; the first time there is no such thing."""
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
                LOG.warning("what was merged at Gerrit while imageflow did not listen is not known: %s", error.message)
                return
            found += page.events
            start += page.rows
            if not page.more or not page.rows:
                break
            if start >= _MOST:
                LOG.warning("more than %d changes were merged at Gerrit meanwhile: the older ones are left out", start)
                break
        found.reverse()  # Gerrit tells the last one first
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
                    raise Unavailable(f"Gerrit at {self._where} does not come to an end with its answer to a query")
            lines = bytes(answer).split(b"\n")
            if not stop.is_set() and not any(b'"stats"' in line or b'"error"' in line for line in lines[-3:]):
                raise Unavailable(f"Gerrit at {self._where} answered a query only in part")
            return lines


def _key(file: str | None) -> paramiko.PKey | None:
    """The private key; paramiko's own way to it says nothing of use when the key is not accepted."""
    if not file:
        return None
    try:
        return paramiko.PKey.from_path(Path(file).expanduser())
    except paramiko.PasswordRequiredException:
        raise ConfigError(f"[gerrit] key: {file} has a passphrase", hint="use an ssh-agent, or a key without") from None
    except (OSError, ValueError, TypeError, paramiko.SSHException, paramiko.UnknownKeyType) as error:
        why = getattr(error, "strerror", None) or "it is no private key"
        raise ConfigError(f"[gerrit] key: {file} can't be used: {why}", hint="a file that ssh -i takes") from None


def _pieces(channel: paramiko.Channel, transport: paramiko.Transport, stop: Flag) -> Iterator[bytes]:
    """What comes, until its end or `stop`; b'' when nothing came for a moment."""
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
