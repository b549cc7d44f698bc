"""The tiny guest of the tests is what the tests take it for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.guests import machine, ssh, tiny

pytestmark = [pytest.mark.machine(seconds=25), pytest.mark.sliced]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str, str]:
    """(the client's private key, the host's public key, user-data with both)"""
    public = ssh.key_pair(tmp_path / "client")
    host = ssh.key_pair(tmp_path / "host")
    data = {
        "users": [{"name": "root", "ssh_authorized_keys": [public]}],
        "ssh_keys": {"ed25519_private": (tmp_path / "host").read_text(), "ed25519_public": host},
    }
    return tmp_path / "client", host, "#cloud-config\n" + json.dumps(data, indent=1) + "\n"


def seeded(seed: Path) -> tuple[str, ...]:
    return ("-drive", f"file={seed},if=none,id=seed,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=seed")


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_changes_survive_reboot_and_power_off(tmp_path: Path, keys: tuple[Path, str, str], uefi: bool) -> None:
    key, host, user_data = keys
    seed = ssh.seed(tmp_path / "seed.iso", user_data, "i-1", "first")
    began = time.monotonic()
    with machine.running(tmp_path / "m", disk=tiny.disk(), uefi=uefi, reboots=True, extra=seeded(seed)) as guest:
        with ssh.login(guest, key, host) as shell:
            print(f"login after {time.monotonic() - began:.1f} s")
            assert ssh.output(shell, "hostname") == "first"
            assert ssh.output(shell, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2] == host.split()[:2]
            name = ssh.output(shell, "cat /etc/machine-id")
            assert len(name) == 32
            ssh.output(shell, "echo kept > /etc/kept; mkdir -p /srv/www; echo page > /srv/www/index.html; fstrim -v /")
            ssh.output(
                shell,
                "adduser -D ada && adduser ada staff && echo ada:secret | chpasswd && install -D -m 640 /etc/kept /srv/a/b",
            )
            assert "ada" in ssh.output(shell, "id -un ada; id -Gn ada; stat -c %a /srv/a/b")
            ssh.output(shell, "printf '#!/bin/sh\\nhttpd -h /srv/www\\n' > /etc/rc.local; chmod 755 /etc/rc.local")
            ssh.output(shell, "reboot")
        guest.until(lambda console: console.count(b"GUEST-READY") == 2, 60)
        with ssh.login(guest, key, host) as shell:
            assert ssh.output(shell, "cat /etc/kept; cat /etc/machine-id") == f"kept\n{name}"
            assert ssh.output(shell, "wget -q -O - http://127.0.0.1/") == "page"
            ssh.output(shell, "rm -rf /root/.ssh /etc/ssh/ssh_host_* /var/lib/cloud; : > /etc/machine-id")
            ssh.output(shell, "poweroff")
        console = guest.off(30)
        assert b"GUEST-OFF" in console and b"Linux version" in console
    with machine.running(tmp_path / "m", uefi=uefi, extra=seeded(seed)) as guest, ssh.login(guest, key, host) as shell:
        assert ssh.output(shell, "cat /etc/kept") == "kept"
        assert ssh.output(shell, "cat /etc/machine-id") not in ("", name)


def test_power_button_and_host_key_of_its_own(tmp_path: Path, keys: tuple[Path, str, str]) -> None:
    key, host, _ = keys
    public = key.with_name("client.pub").read_text().strip()
    seed = ssh.seed(tmp_path / "seed.iso", f"#cloud-config\nssh_authorized_keys:\n  - {public}\n", "i-2")
    with machine.running(tmp_path / "m", disk=tiny.disk(), extra=("-cdrom", str(seed))) as guest:
        with ssh.login(guest, key, None) as shell:
            shown = ssh.output(shell, "cat /etc/ssh/ssh_host_ed25519_key.pub")
            assert shown.split()[1] != host.split()[1]
            transport = shell.get_transport()
            assert transport is not None
            assert transport.get_remote_server_key().get_base64() == shown.split()[1]
        guest.until(b"GUEST-READY", 30)
        machine.command(guest, "system_powerdown")
        assert b"GUEST-OFF" in guest.off(30)


def as_nova_gives_it(drive: Path) -> tuple[str, ...]:
    """The config drive: a CD at the IDE bus, or a disk as the other disks are where it is vfat."""
    if drive.suffix != ".iso":
        return seeded(drive)
    return ("-drive", f"file={drive},if=none,id=c0,format=raw,readonly=on", "-device", "ide-cd,drive=c0")


@pytest.mark.parametrize("kind", ["iso9660", "vfat"])
def test_a_config_drive(tmp_path: Path, keys: tuple[Path, str, str], kind: str) -> None:
    """It does with it what it does with NoCloud; another server of the same disk is another instance."""
    key, host, user_data = keys
    extra = []
    for name, hostname in (("a-1", "first.novalocal"), ("a-2", "second")):
        file = tmp_path / f"{name}.{'iso' if kind == 'iso9660' else 'img'}"
        drive = ssh.config_drive(file, name, user_data=user_data, hostname=hostname, kind=kind)
        extra.append(as_nova_gives_it(drive))
    with machine.running(tmp_path / "m", disk=tiny.disk(), extra=extra[0]) as guest:
        with ssh.login(guest, key, host) as shell:
            assert ssh.output(shell, "hostname; cat /var/lib/cloud/data/instance-id") == "first\na-1"
            ssh.output(shell, "rm /etc/ssh/ssh_host_* /root/.ssh/authorized_keys; sync")
        guest.until(b"GUEST-READY first", 30)
        machine.command(guest, "system_powerdown")
        assert b"GUEST-OFF" in guest.off(30)
    with machine.running(tmp_path / "m", extra=extra[1]) as guest, ssh.login(guest, key, host) as shell:
        assert ssh.output(shell, "hostname; cat /root/.ssh/authorized_keys").split("\n", 1) == [
            "second",
            key.with_name("client.pub").read_text().strip(),
        ]


@pytest.mark.parametrize("user_data", ["", "#cloud-config\npackage_update: false\n"], ids=["none", "no keys"])
def test_the_key_pair_lets_root_in_where_user_data_has_no_key(tmp_path: Path, user_data: str) -> None:
    public = ssh.key_pair(tmp_path / "client")
    file = tmp_path / "drive.iso"
    drive = ssh.config_drive(file, "b-1", user_data=user_data, public_key=public, kind="iso9660")
    running = machine.running(tmp_path / "m", disk=tiny.disk(), extra=as_nova_gives_it(drive))
    with running as guest, ssh.login(guest, tmp_path / "client", None) as shell:
        assert ssh.output(shell, "cat /root/.ssh/authorized_keys") == public
        assert ssh.output(shell, "hostname") == "tiny"


def test_the_key_pair_gives_way_to_the_keys_of_user_data(tmp_path: Path, keys: tuple[Path, str, str]) -> None:
    key, host, user_data = keys
    other = ssh.key_pair(tmp_path / "other")
    drive = ssh.config_drive(tmp_path / "drive.iso", "c-1", user_data=user_data, public_key=other, kind="iso9660")
    running = machine.running(tmp_path / "m", disk=tiny.disk(), extra=as_nova_gives_it(drive))
    with running as guest, ssh.login(guest, key, host) as shell:
        assert other.split()[1] not in ssh.output(shell, "cat /root/.ssh/authorized_keys")


def test_without_a_seed_it_is_what_it_was(tmp_path: Path) -> None:
    with machine.running(tmp_path / "m", disk=tiny.disk()) as guest:
        assert b"GUEST-SEED" not in guest.until(b"GUEST-READY tiny after", 60)


@pytest.mark.parametrize(
    ("fault", "says"),
    [("panic", b"Kernel panic - not syncing"), ("emergency", b"Give root password for maintenance")],
)
def test_faults(tmp_path: Path, fault: str, says: bytes) -> None:
    with machine.running(tmp_path / "m", disk=tiny.disk(fault)) as guest:
        guest.until(says, 60)


def test_a_disk_that_reboots_for_ever(tmp_path: Path) -> None:
    with machine.running(tmp_path / "m", disk=tiny.disk("reboot"), reboots=True) as guest:
        guest.until(lambda console: console.count(b"Linux version") >= 3, 60)
