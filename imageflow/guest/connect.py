"""A connection to a machine: scripts and files over one SSH transport, which stays open."""

from __future__ import annotations

import contextlib
import functools
import secrets
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko

from imageflow.errors import CommandFailed, LockedOut, Unavailable
from imageflow.guest import Access, Facts, archive, remote, scripts
from imageflow.guest.following import KEPT, follow
from imageflow.guest.login import Patience, log_in, rehearse
from imageflow.host.buildlog import cleaner
from imageflow.host.child_output import Lines
from imageflow.host.control import Control
from imageflow.host.process import TAIL, verdict

Feed = Callable[[Callable[[bytes], None]], None]  # writes a command's standard input
_T = TypeVar("_T")
_KEEPALIVE = 15  # seconds
_OPEN = 60.0  # seconds that a channel may take to open
_END = 15.0  # seconds that ending a command may take
_LARGE = 256 << 20  # bytes of output kept of a command with large output
_AGAIN = 60.0  # seconds for logging in again after a lost connection
_REFUSED = Patience(refused=10.0, silent=float("inf"))  # then


def connect(
    access: Access,
    *,
    control: Control,
    log: Callable[[str], None],
    timeout: float = 60.0,
    dead: Callable[[], str | None] = lambda: None,
    patience: Callable[[], Patience | None] = lambda: None,
) -> SshConnection:
    """Log in as soon as that works; raises what login.log_in does. Close it, or use it in a `with`."""
    transport = log_in(access, control=control, timeout=timeout, dead=dead, patience=patience)
    return SshConnection(access, transport, log)


def await_ssh(
    access: Access,
    *,
    control: Control,
    log: Callable[[str], None],
    timeout: float,
    dead: Callable[[], str | None],
    patience: Callable[[], Patience | None] = lambda: None,
) -> SshConnection:
    """Wait until a booting machine is ready: login works and cloud-init has finished.

    `dead` returns why waiting is pointless, or None. Raises as `connect` does; LockedOut, too, when the account that
    logged in can't become root.
    """
    deadline = time.monotonic() + timeout
    connection = connect(access, control=control, log=log, timeout=timeout, dead=dead, patience=patience)
    try:
        connection.await_cloud_init(control, max(30.0, deadline - time.monotonic()))
    except CommandFailed as error:  # it can only fail before it begins
        connection.close()
        how = "run a command" if access.user == "root" else "become root with sudo"
        raise LockedOut(f"{access.user} can't {how} in the machine any more: {error.hint}") from None
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Reserved:
    """A shell in a machine that has no script yet."""

    mark: str
    channel: paramiko.Channel

    def close(self) -> None:
        """End it; idempotent."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()


class SshConnection:
    """The Guest protocol over SSH. For one thread at a time."""

    def __init__(self, access: Access, transport: paramiko.Transport, log: Callable[[str], None]) -> None:
        self.access = access
        self._log = log
        self._transport = transport
        transport.set_keepalive(_KEEPALIVE)

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, other: SshConnection) -> None:
        """Go on over another connection, made to the same machine; `other` is not used any more."""
        self._transport.close()
        self.access, self._transport = other.access, other._transport

    def close(self) -> None:
        """Idempotent; a command still running in the machine continues until the next connection."""
        self._transport.close()

    @functools.cached_property
    def facts(self) -> Facts:
        """See Guest.facts."""
        lines = self.run(
            scripts.FACTS, control=Control(time.monotonic() + 120), name="a look at the machine"
        ).splitlines()
        found = dict(line.partition("=")[::2] for line in lines)
        return Facts(
            packages=found.get("packages"),
            system=found.get("system", ""),
            python=found.get("python") or None,
        )

    def run(
        self,
        command: str,
        *,
        control: Control,
        log: Callable[[str], None] | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        name: str = "a command in the machine",
        reserved: Reserved | None = None,
    ) -> str:
        """See Guest.run. `reserved`: where it runs, see `reserve`."""

        def feed(write: Callable[[bytes], None]) -> None:
            write(stdin)

        environment = environment or {}
        kept = self._execute(
            command, feed, control=control, log=log, environment=environment, name=name, reserved=reserved
        )
        return kept.decode("utf-8", "replace").removesuffix("\n")

    def output(self, command: str, *, control: Control, name: str = "a command in the machine") -> bytes:
        """See Guest.output."""
        return self._execute(
            command, lambda _write: None, control=control, log=None, environment={}, name=name, keep=_LARGE
        )

    def put(
        self, data: bytes | Path, to: str, *, mode: str = "0644", owner: str = "root:root", control: Control
    ) -> None:
        """See Guest.put. Raises OSError when a local file can't be read."""
        size = len(data) if isinstance(data, bytes) else data.stat().st_size

        def feed(write: Callable[[bytes], None]) -> None:
            if isinstance(data, bytes):
                write(data)
                return
            with data.open("rb") as file:
                while part := file.read(1 << 18):
                    write(part)

        owner = owner if ":" in owner else f"{owner}:"
        head = "".join(
            f"{key}={shlex.quote(value)}\n"
            for key, value in (("to", to), ("mode", mode), ("owner", owner), ("size", str(size)))
        )
        self._execute(head + scripts.PUT, feed, control=control, log=None, environment={}, name=f"writing {to}")

    def put_tree(self, folder: Path, to: str, *, control: Control) -> None:
        """See Guest.put_tree; owned by root. Raises Refused for anything but files, folders and links."""
        self._execute(
            f"to={shlex.quote(to)}\n{scripts.PUT_TREE}",
            functools.partial(archive.pack, folder),
            control=control,
            log=None,
            environment={},
            name=f"writing {to}",
        )

    def reserve(self, control: Control) -> Reserved | None:
        """A shell that waits for its script: it is root's, even when later ones can't be; None when there is none."""
        mark = secrets.token_hex(8)
        with contextlib.suppress(Unavailable):
            return Reserved(mark, self._begin(mark, control))
        return None

    def rehearse_login(self, server: str, control: Control) -> None:
        """Log in to an SSH server that this command starts on its standard input. Raises what login.rehearse does."""
        mark = secrets.token_hex(8)
        channel = self._begin(mark, control)
        try:
            channel.sendall(remote.header(server, {}, mark))
            rehearse(channel, self.access, control)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Unavailable(f"the connection to the machine was lost: {error}") from None
        finally:
            channel.close()
            self._end(mark)

    def await_cloud_init(self, control: Control, timeout: float) -> None:
        """Wait until cloud-init, if installed, has finished for this boot; raises Unavailable after `timeout` seconds."""
        limited = _Limited(control, timeout, "cloud-init is still not done")
        resolve = "" if self.access.user == "root" else scripts.OWN_NAME  # sudo looks it up for each command
        self.run(resolve + scripts.READY, control=limited, log=self._log, name="waiting for cloud-init")

    def _execute(
        self,
        script: str,
        feed: Feed,
        *,
        control: Control,
        log: Callable[[str], None] | None,
        environment: Mapping[str, str],
        name: str,
        keep: int = KEPT,
        reserved: Reserved | None = None,
    ) -> bytes:
        mark = reserved.mark if reserved is not None else secrets.token_hex(8)
        header = remote.header(script, environment, mark)
        clean = cleaner(log)
        hidden = sorted(filter(str.strip, environment.values()), key=len, reverse=True)
        tail: deque[str] = deque(maxlen=TAIL)

        def sink(line: str) -> None:
            tail.append(line)
            if log is not None:
                log(line)

        channel = reserved.channel if reserved is not None else self._begin(mark, control)
        feeder = _Feeder(channel, header, feed)
        ended = False
        try:
            kept = follow(channel, self._transport, control, Lines(sink), Lines(sink), keep)
            ended = True
        except Unavailable as error:
            raise Unavailable(f"{name}: {error.message}", hint=error.hint) from None
        finally:
            if not ended:
                self._end(mark)
            channel.close()
            feeder.join(_OPEN)
        if feeder.error is not None:
            raise feeder.error
        code = channel.exit_status
        if code:
            words = verdict(name, code) if code > 0 else f"{name} was ended from outside"
            quotes = [clean(line) for line in list(tail)[-3:]]
            for value in hidden:
                quotes = [quote.replace(value, "******") if len(value) > 2 else quote for quote in quotes]
            failed = CommandFailed(words, hint=" | ".join(quotes) or "it printed nothing")
            failed.ended_from_outside = code < 0 or code > 128  # a shell's code for a signal
            raise failed
        return kept

    def _begin(self, mark: str, control: Control) -> paramiko.Channel:
        return self._start(remote.command_line(mark, sudo=self.access.user != "root"), control)

    def _start(self, line: str, control: Control) -> paramiko.Channel:
        """A channel on which the SSH server has started our reader; reconnects if the connection is lost."""
        for last in (False, True):
            try:
                control.check()
                if not self._transport.is_active():
                    self._log("the connection to the machine was lost: logging in again")
                    self._transport = log_in(
                        self.access, control=control, timeout=_AGAIN, dead=lambda: None, patience=lambda: _REFUSED
                    )
                    self._transport.set_keepalive(_KEEPALIVE)
                return _attended(functools.partial(_open, self._transport, line), control)
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._transport.close()
                if last:
                    raise Unavailable(f"no command can be started in the machine: {error}") from None
        raise AssertionError

    def _end(self, mark: str) -> None:
        """End a command; when that fails, the next connection does it."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            if not self._transport.is_active():
                return
            become = self.access.user != "root"
            channel = _open(self._transport, remote.command_line(f"end-{mark}", sudo=become), timeout=_END)
            channel.settimeout(_END)
            channel.sendall(remote.ending(mark))
            channel.shutdown_write()
            channel.status_event.wait(_END)
            channel.close()


class _Limited(Control):
    """A control with its own time limit, after which `why` is raised as Unavailable."""

    def __init__(self, control: Control, seconds: float, why: str) -> None:
        super().__init__(build_id=control.build_id)
        self._control, self._until, self._late = control, time.monotonic() + seconds, why

    def check(self) -> None:
        self._control.check()
        if time.monotonic() > self._until:
            raise Unavailable(self._late)


class _Feeder(threading.Thread):
    """Writes a command's standard input while another thread reads its output."""

    def __init__(self, channel: paramiko.Channel, header: bytes, feed: Feed) -> None:
        super().__init__(name="command input", daemon=True)
        self._channel, self._header, self._feed = channel, header, feed
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._write(self._header)
            self._feed(self._write)
        except (_Gone, paramiko.SSHException, EOFError):
            pass  # it ended without reading everything; its exit code tells whether that is an error
        except Exception as error:  # noqa: BLE001 - raised again after the command has seen the end of its input and cleaned up
            self.error = error
        finally:
            with contextlib.suppress(OSError, paramiko.SSHException, EOFError):
                self._channel.shutdown_write()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            for start in range(0, len(view), 1 << 18):
                self._channel.sendall(view[start : start + (1 << 18)])
        except OSError:
            raise _Gone from None


class _Gone(Exception):
    """The other end of a channel is closed."""


def _open(transport: paramiko.Transport, line: str, timeout: float = _OPEN) -> paramiko.Channel:
    channel = transport.open_session(timeout=timeout)
    channel.settimeout(timeout)
    channel.exec_command(line)
    channel.settimeout(None)
    return channel


def _attended(call: Callable[[], _T], control: Control) -> _T:
    """Make a blocking call, and abandon it when `control` says stop."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=work, name="opening a channel", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.25)
        if thread.is_alive():
            control.check()
    if errors:
        raise errors[0]
    return results[0]
