"""The tiny installer of the tests installs what boots, and its faults are what they are called."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.guests import ANSWERS, installer, machine, media, ssh

pytestmark = [pytest.mark.machine(seconds=20), pytest.mark.sliced]

ARGUMENTS = "console=tty0 console=ttyS0,115200 auto=true priority=critical"


def direct(tmp_path: Path, answers: dict[str, bytes], arguments: str = ARGUMENTS) -> tuple[str, ...]:
    """Arguments for QEMU: the installer's kernel with answers appended to its initrd, as a remastered ISO has them."""
    initrd = tmp_path / "initrd"
    shutil.copy(installer.parts() / "initrd.gz", initrd)
    with initrd.open("ab") as out:
        out.write(gzip.compress(media.newc(answers)))
    return ("-kernel", str(installer.parts() / "kernel"), "-initrd", str(initrd), "-append", arguments)


def additions(kind: str, public: str) -> bytes:
    text = (ANSWERS / kind).read_text()
    post = f"mkdir -p -m 700 /root/.ssh; echo '{public}' > /root/.ssh/authorized_keys; echo MARKER-1 > /dev/ttyS0"
    if kind == "ks.cfg":
        return (text + "\n%post\n" + post.replace("; ", "\n") + "\n").encode()
    return text.rstrip().encode() + f'; \\\n in-target sh -c "{post}"\n'.encode()


@pytest.mark.parametrize("kind", ["preseed.cfg", "ks.cfg"])
def test_installs_what_boots(tmp_path: Path, kind: str) -> None:
    public = ssh.key_pair(tmp_path / "client")
    extra = direct(
        tmp_path,
        {kind: additions(kind, public), "preseed.cfg": b""} if kind == "ks.cfg" else {kind: additions(kind, public)},
    )
    with machine.running(tmp_path / "m", cdrom=installer.iso(), extra=extra) as it:
        console = it.off(90)
    assert b"MARKER-1" in console and b"Installing the base system" in console, console.decode(errors="replace")
    with machine.running(tmp_path / "m") as it, ssh.login(it, tmp_path / "client", None) as shell:
        assert ssh.output(shell, "cat /etc/installed-by") in kind.replace("ks.cfg", "kickstart")


def test_a_config_drive_in_the_first_drive_and_the_iso_in_the_second(tmp_path: Path) -> None:
    """As nova rescues a server: it finds its ISO, and what it installed reads the config drive."""
    public = ssh.key_pair(tmp_path / "client")
    told = ssh.key_pair(tmp_path / "told")
    user_data = "#cloud-config\n" + json.dumps({"users": [{"name": "root", "ssh_authorized_keys": [told]}]}, indent=1)
    drive = ssh.config_drive(tmp_path / "drive.iso", "i-9", user_data=user_data, hostname="nine", kind="iso9660")

    def cd(name: str, file: Path, bus: int) -> tuple[str, ...]:
        backend = f"file={file},if=none,id={name},format=raw,media=cdrom,readonly=on"
        return ("-drive", backend, "-device", f"ide-cd,drive={name},bus=ide.0,unit={bus}")

    both = (*cd("c0", drive, 0), *cd("c1", installer.iso(), 1))
    kernel = direct(tmp_path, {"preseed.cfg": additions("preseed.cfg", public)})
    with machine.running(tmp_path / "m", extra=(*kernel, *both)) as it:
        console = it.off(90)
    assert b"[sr1]" in console and b"MARKER-1" in console, console.decode(errors="replace")
    running = machine.running(tmp_path / "m", extra=cd("c0", drive, 0))
    with running as it, ssh.login(it, tmp_path / "told", None) as shell:
        assert ssh.output(shell, "hostname; cat /root/.ssh/authorized_keys").splitlines() == ["nine", public, told]


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_its_menu_comes_up(tmp_path: Path, uefi: bool) -> None:
    """As it is, the ISO waits at its boot menu; with a key it starts, has no answers, and asks."""
    with machine.running(tmp_path / "m", cdrom=installer.iso(), uefi=uefi) as it:
        for _ in range(12):
            machine.command(it, "send-key", keys=[{"type": "qcode", "data": "ret"}])
            with contextlib.suppress(AssertionError):  # the menu may not have been there yet
                it.until(b"no answers", 8)
                break
        it.until("┤ [!!] Partition disks ├".encode(), 10)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("dialog", "┤ [!!] Partition disks ├".encode()),
        ("prompt", b"Prompt: '?' for help>"),
        ("panic", b"Kernel panic - not syncing: sysrq triggered crash"),
        ("init", b"Kernel panic - not syncing: Attempted to kill init!"),
    ],
)
def test_faults(tmp_path: Path, kind: str, says: bytes) -> None:
    extra = direct(tmp_path, {"preseed.cfg": (ANSWERS / "preseed.cfg").read_bytes()})
    with machine.running(tmp_path / "m", cdrom=installer.iso(kind), extra=extra) as it:
        it.until(says, 60)


@pytest.mark.parametrize("kind", ["poweroff", "reboot"])
def test_faults_that_end(tmp_path: Path, kind: str) -> None:
    extra = direct(tmp_path, {"preseed.cfg": (ANSWERS / "preseed.cfg").read_bytes()})
    with machine.running(tmp_path / "m", cdrom=installer.iso(kind), extra=extra) as it:
        assert b"Installing the base system" not in it.off(60)
