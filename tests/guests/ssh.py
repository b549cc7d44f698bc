"""Logging into a guest of these tests, and its seed; it uses no code of imageflow, so that guests are tested alone."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import paramiko
import pycdlib

from tests.guests.debs import run
from tests.guests.machine import Bare


def key_pair(path: Path) -> str:
    """Make an ed25519 key pair; -> the public key's line."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def seed(to: Path, user_data: str, instance: str, hostname: str = "tiny") -> Path:
    """A NoCloud volume."""
    volume = pycdlib.PyCdlib()
    volume.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in {
        "meta-data": f"instance-id: {instance}\nlocal-hostname: {hostname}\n",
        "user-data": user_data,
    }.items():
        data = text.encode()
        short = f"/{name.replace('-', '').upper()}.;1"
        volume.add_fp(io.BytesIO(data), len(data), short, rr_name=name, joliet_path=f"/{name}")
    volume.write(str(to))
    volume.close()
    return to


def config_drive(
    to: Path, instance: str, *, user_data: str = "", public_key: str = "", hostname: str = "tiny.local", kind: str
) -> Path:
    """OpenStack's config drive as nova makes it, of `kind` iso9660 or vfat."""
    meta = {"uuid": instance, "hostname": hostname, "name": hostname, "random_seed": "c2VlZA==", "launch_index": 0}
    if public_key:
        meta |= {"public_keys": {"mine": public_key + "\n"}, "keys": [{"name": "mine", "data": public_key + "\n"}]}
    tree = to.with_name(f"{to.name}.tree")
    for version in ("2018-08-27", "latest"):
        folder = tree / "openstack" / version
        folder.mkdir(parents=True)
        (folder / "meta_data.json").write_text(json.dumps(meta))
        (folder / "network_data.json").write_text("{}")
        if user_data:
            (folder / "user_data").write_text(user_data)
    if kind == "iso9660":
        run("xorriso", "-as", "mkisofs", "-quiet", "-J", "-r", "-V", "config-2", "-o", to, tree)
    else:
        run("truncate", "-s", "64M", to)
        run("mformat", "-i", to, "-v", "config-2", "::")
        run("mcopy", "-s", "-i", to, tree / "openstack", "::/")
    return to


def login(machine: Bare, key: Path, host_key: str | None, seconds: float = 60) -> paramiko.SSHClient:
    """Log in as root as soon as possible; the host must have `host_key` (a public key's line)."""
    client = paramiko.SSHClient()
    if host_key is None:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    else:
        kind, blob = host_key.split()[:2]
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"[127.0.0.1]:{machine.port} {kind} {blob}")
        assert entry is not None and entry.key is not None
        client.get_host_keys().add(f"[127.0.0.1]:{machine.port}", kind, entry.key)
    end = time.monotonic() + seconds
    while True:
        try:
            client.connect(
                "127.0.0.1",
                machine.port,
                "root",
                key_filename=str(key),
                allow_agent=False,
                look_for_keys=False,
                timeout=10,
            )
            return client
        except (OSError, EOFError, paramiko.SSHException) as error:
            if isinstance(error, (paramiko.AuthenticationException, paramiko.BadHostKeyException)):
                raise
            assert machine.process.poll() is None, machine.console()[-3000:].decode(errors="replace")
            assert time.monotonic() < end, machine.console()[-3000:].decode(errors="replace")
            time.sleep(0.1)


def output(client: paramiko.SSHClient, command: str) -> str:
    """Run a command; -> its output, stripped."""
    _, out, err = client.exec_command(command, timeout=60)
    text = out.read().decode()
    assert out.channel.recv_exit_status() == 0, f"{command}: {text}{err.read().decode()}"
    return text.strip()
