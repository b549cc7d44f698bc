"""A machine for tests that is no machine: a real Debian root with a real sshd, alone in its namespaces.

The root is made once from the host's apt sources (mmdebstrap) and kept in $IMAGEFLOW_TEST_CACHE
(~/.cache/imageflow-tests); every guest writes to a layer of its own on top of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imageflow.guest import Access, keys
from imageflow.inputs import aptsources
from tests.drivers.machine import need
from tests.servers.services import free_ports

PACKAGES = "openssh-server,python3,sudo,systemd,procps"
_START = r"""
set -eu
low=$1 upper=$2 root=$3 port=$4; shift 4
mkdir -p "$upper/up" "$upper/work" "$root"
mount -t overlay overlay -o "lowerdir=$low,upperdir=$upper/up,workdir=$upper/work" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"; done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/run/sshd"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
cat /etc/resolv.conf > "$root/etc/resolv.conf"
echo "127.0.0.1 localhost $(hostname)" > "$root/etc/hosts"
exec chroot "$root" /usr/sbin/sshd -D -e -p "$port" -o ListenAddress=127.0.0.1 -o UsePAM=no -o PidFile=/run/sshd.pid \
    -o PermitRootLogin=prohibit-password "$@"
"""


def cache() -> Path:
    """Where what is made once for all tests is kept."""
    named = os.environ.get("IMAGEFLOW_TEST_CACHE")
    return Path(named) if named else Path.home() / ".cache/imageflow-tests"


def debian_root() -> Path:
    """A Debian root folder that nobody writes to; made at the first call."""
    need("mmdebstrap", "unshare", "chroot", root=True)
    suite = aptsources.codename(Path("/etc"))
    key = hashlib.sha256(f"{PACKAGES} {suite} 1".encode()).hexdigest()[:12]
    done = cache() / f"debian-root-{key}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".debian-root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            made = Path(tempfile.mkdtemp(prefix="debian-root-", dir=cache()))
            try:
                _bootstrap(suite, made / "root")
                (made / "root").rename(done)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return done


def _bootstrap(suite: str, to: Path) -> None:
    sources = sources_text()
    options = [f"--aptopt={line}" for line in _apt_options()]
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", '--aptopt=APT::Install-Recommends "false"']
        + [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
        + [*options, suite, str(to), "-"],
        input=sources.encode(),
        check=True,
        capture_output=True,
        timeout=600,
    )
    for stale in to.glob("etc/ssh/ssh_host_*"):
        stale.unlink()


def sources_text() -> str:
    """The host's own archives, as mmdebstrap reads them."""
    lines = []
    for source in aptsources.read(Path("/etc/apt")):
        signed = f"[signed-by={source.keyring}] " if source.keyring else ""
        lines += [f"deb {signed}{source.uri} {suite} {' '.join(source.components)}" for suite in source.suites]
    return "\n".join(lines) + "\n"


def _apt_options() -> list[str]:
    """What the host's apt is told about its archives, for it holds for ours too."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        line.rstrip(";") for line in dump if line.startswith(("Acquire::Check-", "Acquire::http", "Acquire::https"))
    ]


@dataclass
class SshGuest:
    """A running guest."""

    root: Path  # its file system, as the layer that it wrote
    keys: keys.Keys
    port: int
    user: str
    process: subprocess.Popen[bytes]
    folder: Path
    options: list[str] = field(default_factory=list)

    @property
    def access(self) -> Access:
        return keys.access(self.keys, "127.0.0.1", self.port, self.user, host_known=True)

    @property
    def pid(self) -> int:
        """sshd's own pid, on the host."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stop(self) -> None:
        """Everything in it is gone when this returns."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start (again): what is written stays."""
        self.process = _started(self.folder, self.port, self.options)
        _await_port(self)

    def command(self, *words: str) -> str:
        """Run something inside, without SSH."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", f"--root=/proc/{self.pid}/root", "--wd=/"]
        return subprocess.run([*inside, *words], capture_output=True, text=True, timeout=60).stdout

    def marked(self) -> list[str]:
        """Processes inside that belong to a command of ours."""
        script = "for e in /proc/[0-9]*/environ; do grep -q IMAGEFLOW_COMMAND $e && cat ${e%/*}/comm; done 2>/dev/null"
        return self.command("sh", "-c", script).split()


@contextlib.contextmanager
def ssh_guest(user: str = "root", options: tuple[str, ...] = ()) -> Iterator[SshGuest]:
    """A guest that lets the build's key in; nothing of it is left afterwards."""
    low = debian_root()
    folder = Path(tempfile.mkdtemp(prefix="guest-", dir=cache()))  # overlayfs can't lie on an overlay, as /tmp may
    made = keys.make(folder / "keys")
    home = folder / "upper/up" / ("root" if user == "root" else f"home/{user}")
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh/authorized_keys").write_text(made.public + "\n")
    (folder / "upper/up/etc/ssh").mkdir(parents=True)
    host = folder / "upper/up/etc/ssh/ssh_host_ed25519_key"
    host.write_bytes(made.host_private.read_bytes())
    host.chmod(0o600)
    more = [word for option in options for word in ("-o", option)]
    if user != "root":
        account(folder / "upper/up", low, user)
    [port] = free_ports(1)
    guest = SshGuest(folder / "upper/up", made, port, user, _started(folder, port, more), folder, more)
    try:
        _await_port(guest)
        yield guest
    finally:
        guest.stop()
        shutil.rmtree(folder)


def account(upper: Path, low: Path, user: str) -> None:
    """A user who may become root, and owns the home that is there."""
    (upper / "etc").mkdir(exist_ok=True)
    for name, line in (
        ("passwd", f"{user}:x:1000:1000::/home/{user}:/bin/bash"),
        ("shadow", f"{user}:*:19000:0:99999:7:::"),
        ("group", f"{user}:x:1000:"),
    ):
        (upper / "etc" / name).write_text((low / "etc" / name).read_text() + line + "\n")
    (upper / "etc/sudoers.d").mkdir()
    (upper / "etc/sudoers.d/90-build").write_text(f"{user} ALL=(ALL) NOPASSWD:ALL\n")
    (upper / "etc/sudoers.d/90-build").chmod(0o440)
    for path in (upper / "home" / user).rglob("*"):
        os.chown(path, 1000, 1000)
    os.chown(upper / "home" / user, 1000, 1000)


def _started(folder: Path, port: int, options: list[str]) -> subprocess.Popen[bytes]:
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
    places = [str(debian_root()), str(folder / "upper"), str(folder / "root"), str(port)]
    with (folder / "sshd.log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *unshare, "--", "sh", "-c", _START, "sh", *places, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _await_port(guest: SshGuest) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", guest.port), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return
        if guest.process.poll() is not None or time.monotonic() > deadline:
            sys.stderr.write((guest.folder / "sshd.log").read_text())
            raise AssertionError("sshd did not start")
        time.sleep(0.02)


def silent(_line: str) -> None:
    """A log that nobody reads."""
