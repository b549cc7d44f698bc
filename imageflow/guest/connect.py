"""A connection to a machine: scripts and files over one SSH transport that is kept open."""

from __future__ import annotations

import contextlib
import functools
import secrets
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import paramiko

from imageflow.control import Control
from imageflow.errors import CommandFailed, Unavailable
from imageflow.guest import Access, Facts, archive, remote
from imageflow.guest.following import KEPT, follow
from imageflow.guest.login import log_in
from imageflow.process import TAIL, Lines, verdict

Log = Callable[[str], None]
Feed = Callable[[Callable[[bytes], None]], None]  # writes a command's standard input
_T = TypeVar("_T")
_KEEPALIVE = 15  # seconds
_OPEN = 60.0  # seconds that a channel may take to open
_END = 15.0  # seconds that a command may take to be ended
_LARGE = 256 << 20  # bytes of output that are kept of a command that is known to say much
_AGAIN = 60.0  # seconds to log in again after the connection was lost
_FACTS = """
for tool in apt-get dnf zypper apk; do
    if command -v "$tool" >/dev/null 2>&1; then echo "packages=$tool"; break; fi
done
[ ! -d /run/systemd/system ] || echo systemd=yes
name=$(sed -n 's/^PRETTY_NAME="*\\([^"]*\\)"*$/\\1/p' /etc/os-release 2>/dev/null | head -n 1)
echo "system=${name:-$(uname -sr)}"
echo "python=$(command -v python3 2>/dev/null)"
"""
_CLOUD_INIT = """
command -v cloud-init >/dev/null 2>&1 || exit 0
[ ! -e /run/cloud-init/result.json ] && [ ! -e /run/cloud-init/disabled ] || exit 0
echo 'waiting for cloud-init'
cloud-init status --wait >/dev/null 2>&1 || echo "cloud-init ended with exit code $?"
"""
_PUT = """
set -eu
umask 022
[ ! -d "$to" ] || { echo "$to is a directory" >&2; exit 1; }
folder=${to%/*}
mkdir -p "${folder:-/}"
aside=$folder/.imageflow-put
trap 'rm -f "$aside"' EXIT
trap 'exit 143' HUP INT TERM
rm -f "$aside"
(umask 077; cat > "$aside")
[ "$(wc -c < "$aside")" -eq "$size" ] || { echo 'it did not arrive whole' >&2; exit 1; }
chown "$owner" "$aside"
chmod "$mode" "$aside"
mv -f "$aside" "$to"
"""
_PUT_TREE = f"""
set -eu
umask 022
to=${{to%/}}
mkdir -p "${{to%/*}}/"
rm -rf "$to.imageflow-put"
mkdir "$to.imageflow-put"
trap 'rm -rf "$to.imageflow-put"' EXIT
trap 'exit 143' HUP INT TERM
tar -xf - -C "$to.imageflow-put"
rm "$to.imageflow-put/{archive.LAST}"
rm -rf "$to"
mv "$to.imageflow-put" "$to"
"""


def connect(
    access: Access, *, control: Control, log: Log, timeout: float = 60.0, dead: Callable[[], str | None] = lambda: None
) -> Connection:
    """Log in, as soon as that works; see login.log_in for what is raised. Close it, or use it in a `with`."""
    return Connection(access, log_in(access, control=control, timeout=timeout, dead=dead), log)


def await_ssh(
    access: Access, *, control: Control, log: Log, timeout: float, dead: Callable[[], str | None]
) -> Connection:
    """Wait until a booting machine can be worked in: its SSH server lets us in, its cloud-init is done.

    `dead` says why waiting is pointless, or None. Raises as `connect` does.
    """
    deadline = time.monotonic() + timeout
    connection = connect(access, control=control, log=log, timeout=timeout, dead=dead)
    try:
        connection.await_cloud_init(control, max(30.0, deadline - time.monotonic()))
    except BaseException:
        connection.close()
        raise
    return connection


class Connection:
    """The Guest protocol over SSH. For one thread at a time."""

    def __init__(self, access: Access, transport: paramiko.Transport, log: Log) -> None:
        self.access = access
        self._log = log
        self._transport = transport
        transport.set_keepalive(_KEEPALIVE)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Again is fine; a command that is still running in the machine goes on until the next connection."""
        self._transport.close()

    @functools.cached_property
    def facts(self) -> Facts:
        """What was found in the guest, at the first use."""
        lines = self.run(_FACTS, control=Control(time.monotonic() + 120), name="a look at the machine").splitlines()
        found = dict(line.partition("=")[::2] for line in lines)
        return Facts(
            packages=found.get("packages"),
            systemd="systemd" in found,
            system=found.get("system", ""),
            python=found.get("python") or None,
        )

    def run(
        self,
        command: str,
        *,
        control: Control,
        log: Log | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        name: str = "a command in the machine",
    ) -> str:
        """See Guest.run; `name` is what an error calls it."""

        def feed(write: Callable[[bytes], None]) -> None:
            write(stdin)

        kept = self._execute(command, feed, control=control, log=log, environment=environment or {}, name=name)
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
        self._execute(head + _PUT, feed, control=control, log=None, environment={}, name=f"writing {to}")

    def put_tree(self, folder: Path, to: str, *, control: Control) -> None:
        """See Guest.put_tree; owned by root. Raises Refused for what is no file, folder or link."""
        self._execute(
            f"to={shlex.quote(to)}\n{_PUT_TREE}",
            functools.partial(archive.pack, folder),
            control=control,
            log=None,
            environment={},
            name=f"writing {to}",
        )

    def await_cloud_init(self, control: Control, timeout: float) -> None:
        """Until cloud-init has done all that it does at this boot, where there is one; Unavailable after `timeout` s."""
        limited = _Limited(control, timeout, "cloud-init is still not done")
        self.run(_CLOUD_INIT, control=limited, log=self._log, name="waiting for cloud-init")

    def _execute(
        self,
        script: str,
        feed: Feed,
        *,
        control: Control,
        log: Log | None,
        environment: Mapping[str, str],
        name: str,
        keep: int = KEPT,
    ) -> bytes:
        mark = secrets.token_hex(8)
        header = remote.header(script, environment, mark)
        clean: Callable[[str], str] = getattr(log, "clean", str)
        hidden = sorted(filter(str.strip, environment.values()), key=len, reverse=True)
        tail: deque[str] = deque(maxlen=TAIL)

        def sink(line: str) -> None:
            tail.append(line)
            if log is not None:
                log(line)

        channel = self._start(remote.command_line(mark, sudo=self.access.user != "root"), control)
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
            raise CommandFailed(words, hint=" | ".join(quotes) or "it printed nothing")
        return kept

    def _start(self, line: str, control: Control) -> paramiko.Channel:
        """A channel on which the SSH server has started our reader; over a new connection if the old one is lost."""
        for last in (False, True):
            try:
                control.check()
                if not self._transport.is_active():
                    self._log("the connection to the machine was lost: logging in again")
                    self._transport = log_in(self.access, control=control, timeout=_AGAIN, dead=lambda: None)
                    self._transport.set_keepalive(_KEEPALIVE)
                return _attended(functools.partial(_open, self._transport, line), control)
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._transport.close()
                if last:
                    raise Unavailable(f"no command can be started in the machine: {error}") from None
        raise AssertionError

    def _end(self, mark: str) -> None:
        """End a command; where that can't be, the next connection does it."""
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
    """Another control with a limit of its own, after which `why` is raised as Unavailable."""

    def __init__(self, control: Control, seconds: float, why: str) -> None:
        super().__init__(build_id=control.build_id)
        self._control, self._until, self._late = control, time.monotonic() + seconds, why

    def check(self) -> None:
        self._control.check()
        if time.monotonic() > self._until:
            raise Unavailable(self._late)


class _Feeder(threading.Thread):
    """Writes a command's standard input, while somebody else reads its output."""

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
            pass  # it ended without reading everything; its exit code says whether that is right
        except Exception as error:  # noqa: BLE001 - raised again when the command has seen that this is all, and tidied up
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
    """Call something that blocks, and go on without it when `control` says stop."""
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
