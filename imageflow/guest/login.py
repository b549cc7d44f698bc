"""Reaches a machine's SSH server and logs in, with retries until it works while the machine boots.

Only the host keys in the access's own file are trusted, and only the build's own key is tried.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import paramiko

from imageflow.errors import LockedOut, MachineTrouble, Refused, Unavailable
from imageflow.guest import Access, keys
from imageflow.host.control import Control

_CHECK = 0.25  # seconds between two looks at `control`
_PROBES = 3  # concurrent connection attempts: one made before the machine's network is up hangs
_PROBE_LIFE = 20.0  # seconds after which a connection without a banner is given up
_HANDSHAKE = 60.0  # seconds; an emulated machine under load takes a while
_PAUSES = (0.3, 0.5, 1.0, 2.0, 5.0)  # seconds after consecutive failures: a server may penalize many of them


class _NotYet(Exception):
    """Why this attempt did not work; the next one may."""


class _NotAccepted(_NotYet):
    """The server answered, and said no."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a machine may refuse a login that has worked before, in seconds."""

    refused: float  # its server answers, and does not accept the key
    silent: float  # no server answers


def log_in(
    access: Access,
    *,
    control: Control,
    timeout: float,
    dead: Callable[[], str | None],
    patience: Callable[[], Patience | None] = lambda: None,
) -> paramiko.Transport:
    """Log in as soon as that works, for `timeout` seconds; `dead` returns why waiting is pointless, or None.

    Raises MachineTrouble for what `dead` returns, LockedOut when `patience` is over, Unavailable after the timeout,
    and Refused at once when the machine presents a host key other than the expected one.
    """
    deadline = time.monotonic() + timeout
    failures, why, asked = 0, "nothing listens there yet", 0.0
    locked = _Locked(access)
    with contextlib.closing(_Probes(access)) as probes:
        while True:
            control.check()
            if time.monotonic() - asked > 0.5:
                if reason := dead():
                    raise MachineTrouble(reason)
                if (most := patience()) is not None:
                    locked.check(most)
                asked = time.monotonic()
            try:
                answering, why = probes.next(why)
                if answering is not None:
                    return _negotiate(answering, access, control)
            except _NotYet as error:
                why = str(error)
                locked.heard(error)
                control.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"no login over SSH at {access.host}:{access.port} within {timeout:.0f} s: {why}",
                    hint="the machine's console shows how far it has booted",
                )


def rehearse(channel: paramiko.Channel, access: Access, control: Control) -> None:
    """Log in to an SSH server that was started on this channel, as if it were the machine's.

    Raises Refused for another host key, LockedOut when it does not let us in.
    """
    transport = paramiko.Transport(channel)
    transport.daemon = True
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = _HANDSHAKE
    try:
        _handshake(transport, access, control)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise LockedOut(f"with what is on its disk now, the machine would not let {access.user} in: {error}") from None
    finally:
        transport.close()


class _Locked:
    """Since when a machine has not let us in, and how."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._silent = time.monotonic()  # since when no server has answered
        self._refused: float | None = None  # since when one that answers says no

    def heard(self, error: _NotYet) -> None:
        """Take the result of an attempt to which something answered."""
        if isinstance(error, _NotAccepted):
            self._silent = time.monotonic()
            self._refused = self._refused or time.monotonic()

    def check(self, most: Patience) -> None:
        """Raise LockedOut when this has lasted too long."""
        now = time.monotonic()
        if self._refused is not None and now - self._refused > most.refused:
            raise LockedOut(f"the machine does not accept the build's key for {self._access.user} any more")
        if now - self._silent > most.silent:
            raise LockedOut("no SSH server answers in the machine any more: it is stopped, or a firewall is in the way")


class _Probes:
    """Connections waiting for the server's banner; the first one to receive it is used."""

    def __init__(self, access: Access) -> None:
        self._address = (access.host, access.port)
        self._open: dict[socket.socket, float] = {}
        self._last = 0.0

    def next(self, why: str) -> tuple[socket.socket | None, str]:
        """Wait a moment; -> a connection that was answered, or None with the reason."""
        now = time.monotonic()
        for probe, since in list(self._open.items()):
            if now - since > _PROBE_LIFE:
                self._drop(probe)
        if len(self._open) < _PROBES and now - self._last > (1.0 if self._open else 0.2):
            self._last = now
            try:
                self._open[socket.create_connection(self._address, timeout=5)] = now
            except OSError as error:
                why = error.strerror or str(error)
        if not self._open:
            time.sleep(_CHECK / 2)
            return None, why
        for probe in select.select(list(self._open), [], [], _CHECK)[0]:
            try:
                words = probe.recv(4, socket.MSG_PEEK)
            except OSError:
                words = b""
            if words:
                del self._open[probe]
                return probe, why
            self._drop(probe)
            time.sleep(_CHECK / 2)  # qemu's own network accepts connections even when nothing listens in the machine
            return None, "connections are closed at once"
        return None, "nothing answers there"

    def _drop(self, probe: socket.socket) -> None:
        del self._open[probe]
        probe.close()

    def close(self) -> None:
        for probe in list(self._open):
            self._drop(probe)


def _negotiate(answering: socket.socket, access: Access, control: Control) -> paramiko.Transport:
    try:
        transport = paramiko.Transport(answering)
    except (paramiko.SSHException, OSError) as error:
        answering.close()
        raise _NotYet(f"it does not speak SSH: {error}") from None
    transport.daemon = True
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = _HANDSHAKE
    try:
        _handshake(transport, access, control)
    except BaseException as error:
        transport.close()
        if isinstance(error, paramiko.AuthenticationException):
            raise _NotAccepted(f"it does not accept the build's key for {access.user}") from None
        if isinstance(error, paramiko.SSHException | OSError | EOFError):
            raise _NotYet(f"SSH: {error or type(error).__name__}") from None
        raise
    return transport


def _handshake(transport: paramiko.Transport, access: Access, control: Control) -> None:
    known = keys.expected(access.known_hosts)
    options = transport.get_security_options()
    first = [kind for kind, _ in known if kind in options.key_types] or ["ssh-ed25519"]
    options.key_types = [*first, *(kind for kind in options.key_types if kind not in first)]
    _await(transport, control, transport.start_client)
    shown = transport.get_remote_server_key()
    if known and (shown.get_name(), shown.get_base64()) not in known:
        raise Refused(
            f"the machine at {access.host}:{access.port} presents an unexpected host key: {shown.fingerprint}",
            hint="something else answers there, or the machine was recreated; abort the build and create it again",
        )
    key = paramiko.Ed25519Key.from_private_key_file(str(access.key))
    _await(transport, control, lambda event: transport.auth_publickey(access.user, key, event))
    if not transport.is_authenticated():
        raise paramiko.AuthenticationException("the server asks for more than a key")
    if not known:
        keys.expect(access.known_hosts, f"{shown.get_name()} {shown.get_base64()}")


def _await(transport: paramiko.Transport, control: Control, start: Callable[[threading.Event], object]) -> None:
    """Wait until the started operation has ended; raises its error."""
    done = threading.Event()
    start(done)
    deadline = time.monotonic() + _HANDSHAKE
    while not done.wait(_CHECK):
        control.check()
        if not transport.is_active() or time.monotonic() > deadline:
            break
    error = transport.get_exception()
    if error is not None:
        raise error
    if not done.is_set() or not transport.is_active():
        raise paramiko.SSHException("the connection was closed")
