"""A bare QEMU for tests of guests: it uses no driver of ours, and ends with the test."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guests.debs import run
from tests.servers.services import free_ports, missing, require


@dataclass
class Bare:
    """A running QEMU."""

    process: subprocess.Popen[bytes]
    serial: Path
    disk: Path
    port: int  # of its SSH server, on 127.0.0.1

    def console(self) -> bytes:
        """Serial output so far."""
        return self.serial.read_bytes()

    def written(self) -> int:
        """The space that its disk takes, in bytes."""
        return self.disk.stat().st_blocks * 512

    def until(self, what: Callable[[bytes], bool] | bytes, seconds: float) -> bytes:
        """Wait until the console says so; -> the console."""
        end = time.monotonic() + seconds
        while True:
            console = self.console()
            if what in console if isinstance(what, bytes) else what(console):
                return console
            assert self.process.poll() is None, f"it ended: {console[-3000:].decode(errors='replace')}"
            assert time.monotonic() < end, f"not within {seconds} s: {console[-3000:].decode(errors='replace')}"
            time.sleep(0.05)

    def off(self, seconds: float) -> bytes:
        """Wait until it is powered off; -> the console."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not within {seconds} s: {self.console()[-3000:].decode(errors='replace')}") from None
        return self.console()


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    disk: Path | None = None,
    cdrom: Path | None = None,
    size: str = "2G",
    uefi: bool = False,
    reboots: bool = False,
    memory: int = 512,
    extra: tuple[str, ...] = (),
) -> Iterator[Bare]:
    """A machine on an overlay of `disk`, or on an empty disk; it is gone at the end."""
    require("QEMU", missing("qemu-system-x86_64", "qemu-img"))
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / "disk.qcow2"
    if not mine.exists():
        base = ("-b", disk, "-F", "qcow2") if disk else ()
        run("qemu-img", "create", "-q", "-f", "qcow2", *base, mine, *(() if disk else (size,)))
    [port] = free_ports(1)
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=256", "-m", str(memory), "-smp", "1"]
    argv += ["-nodefaults", "-display", "none", "-vga", "std", *(() if reboots else ("-no-reboot",))]
    argv += ["-drive", f"file={mine},if=none,id=d0,format=qcow2,cache=unsafe"]
    argv += ["-device", f"virtio-blk-pci,drive=d0,bootindex={2 if cdrom else 1}"]
    if cdrom:
        argv += [
            "-drive",
            f"file={cdrom},if=none,id=cd,media=cdrom,readonly=on",
            "-device",
            "ide-cd,drive=cd,bootindex=1",
        ]
    if uefi:
        require("OVMF", None if Path("/usr/share/OVMF/OVMF_CODE.fd").exists() else "no /usr/share/OVMF/OVMF_CODE.fd")
        (folder / "vars").write_bytes(Path("/usr/share/OVMF/OVMF_VARS.fd").read_bytes())
        argv += ["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd"]
        argv += ["-drive", f"if=pflash,format=raw,file={folder}/vars"]
    argv += ["-netdev", f"user,id=n0,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22"]
    argv += ["-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"]
    argv += ["-serial", f"file:{folder}/serial", "-qmp", f"unix:{folder}/qmp,server=on,wait=off", *extra]
    (folder / "serial").unlink(missing_ok=True)
    with open(folder / "qemu.log", "wb") as log:
        # ends with the tests, even when they are killed
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        while not (folder / "serial").exists():
            assert process.poll() is None, (folder / "qemu.log").read_text()
            time.sleep(0.01)
        yield Bare(process, folder / "serial", mine, port)
    finally:
        process.kill()
        process.wait()


def command(machine: Bare, name: str, **arguments: object) -> object:
    """Send a QMP command; -> its answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(machine.serial.with_name("qmp")))
        stream = connection.makefile("rw")
        stream.readline()
        answer: dict[str, object] = {}
        for request in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            while "return" not in (answer := json.loads(stream.readline())):
                assert "error" not in answer, answer
        return answer["return"]
