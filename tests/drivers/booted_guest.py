"""A machine for tests with a real systemd and no emulation: the Debian root of `sshguest`, booted by systemd-nspawn.

It shares the host's network, so its SSH server listens on a port of its own. It can reboot itself.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.guest import Access, keys
from tests.drivers.machine import need
from tests.drivers.sshguest import account, cache, debian_root
from tests.servers.services import free_ports

_START = r"""
set -eu
low=$1 upper=$2 root=$3 name=$4
mount -t overlay overlay -o "lowerdir=$low,upperdir=$upper/up,workdir=$upper/work" "$root"
while :; do
    code=0
    systemd-nspawn --quiet --directory="$root" --machine="$name" --register=no --keep-unit --resolv-conf=copy-host \
        --timezone=off --link-journal=no --console=pipe /lib/systemd/systemd || code=$?
    [ "$code" = 133 ] || exit "$code"  # 133: it reboots
done
"""


@dataclass
class BootedGuest:
    """A running guest, in which systemd is the first process."""

    root: Path  # what it wrote
    keys: keys.Keys
    port: int
    user: str
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def access(self) -> Access:
        return keys.access(self.keys, "127.0.0.1", self.port, self.user, host_known=True)

    def console(self) -> bytes:
        return (self.folder / "console").read_bytes()

    def command(self, *words: str) -> str:
        """Run something inside, without SSH; -> what it said."""
        try:
            pid = str(_first_process(self.process.pid))
        except (OSError, ValueError):  # it reboots
            return ""
        inside = [
            "nsenter",
            "--target",
            pid,
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            f"--root=/proc/{pid}/root",
            "--wd=/",
        ]
        try:
            done = subprocess.run([*inside, *words], capture_output=True, text=True, timeout=20)
        except subprocess.TimeoutExpired:  # it ended meanwhile
            return ""
        return done.stdout

    def await_port(self, seconds: float = 60.0) -> None:
        """Wait until an SSH server answers."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                if probe.recv(4) == b"SSH-":
                    return
            assert self.process.poll() is None, self.console()[-3000:].decode(errors="replace")
            assert time.monotonic() < end, self.console()[-3000:].decode(errors="replace")
            time.sleep(0.05)

    def stop(self) -> None:
        """It and its processes are gone when this returns."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def booted_guest(user: str = "root") -> Iterator[BootedGuest]:
    """A guest that lets the build's key in, as soon as it is up; nothing of it is left afterwards."""
    need("systemd-nspawn", "mmdebstrap", "unshare", root=True)
    folder = Path(tempfile.mkdtemp(prefix="booted-", dir=cache()))
    [port] = free_ports(1)
    made = keys.make(folder / "keys")
    upper = folder / "upper/up"
    _write(upper, made, port, user)
    (folder / "upper/work").mkdir()
    (folder / "root").mkdir()
    words = [str(debian_root()), str(folder / "upper"), str(folder / "root"), f"guest-{port}"]
    spaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *spaces, "--", "sh", "-c", _START, "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    guest = BootedGuest(upper, made, port, user, process, folder)
    try:
        guest.await_port()
        yield guest
    finally:
        guest.stop()
        shutil.rmtree(folder)
        shutil.rmtree(Path("/run/systemd/nspawn/propagate") / f"guest-{port}", ignore_errors=True)


def _write(upper: Path, made: keys.Keys, port: int, user: str) -> None:
    low = debian_root()
    (upper / "etc/ssh/sshd_config.d").mkdir(parents=True)
    (upper / "etc/ssh/sshd_config.d/50-port.conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\n")
    host = upper / "etc/ssh/ssh_host_ed25519_key"
    host.write_bytes(made.host_private.read_bytes())
    host.chmod(0o600)
    for name in ("reboot", "poweroff"):
        (upper / "usr/sbin").mkdir(parents=True, exist_ok=True)
        (upper / "usr/sbin" / name).symlink_to("/bin/systemctl")
    home = upper / ("root" if user == "root" else f"home/{user}")
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/authorized_keys").write_text(made.public + "\n")
    if user == "root":
        return
    account(upper, low, user)


def _first_process(pid: int) -> int:
    """The first process of the container, below unshare and systemd-nspawn."""
    while True:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            return pid
        [pid, *_] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
