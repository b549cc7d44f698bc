"""Sealing a real Debian system, looking whether that worked, and byte strings in raw disks."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.errors import Cancelled
from imageflow.guest import hygiene, keys, scrub, seal, seed
from imageflow.guest.connect import SshConnection, connect
from imageflow.host.control import Control
from tests.cpu import spent
from tests.drivers.machine import need
from tests.drivers.sshguest import SshGuest, ssh_guest

ID = "0123456789abcdef0123456789abcdef"
OTHERS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPq7+/aXyBvOmpbXXT2ZcIqfNnF6mQmYQGWgPGdMHXf9 ada@home"


def silent(_line: str) -> None:
    pass


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 120)


@pytest.fixture
def guest() -> Iterator[SshGuest]:
    with ssh_guest() as made:
        yield made


@pytest.fixture
def connection(guest: SshGuest, control: Control) -> Iterator[SshConnection]:
    with connect(guest.access, control=control, log=silent) as made:
        yield made


DIRTY = f"""
set -e
echo {ID} > /etc/machine-id
useradd -m ada
mkdir -p /home/ada/.ssh /var/lib/cloud/instances/i-1 /var/lib/cloud/seed/nocloud /var/log/installer /var/log/journal/{ID}
echo '{OTHERS}' > /home/ada/.ssh/authorized_keys
sed 's/^/no-pty /' /root/.ssh/authorized_keys >> /home/ada/.ssh/authorized_keys
echo 'ssh-ed25519 AAAAearlier imageflow-build' >> /home/ada/.ssh/authorized_keys
ln -s instances/i-1 /var/lib/cloud/instance
mkdir -p /var/lib/dhcp /var/lib/systemd /root/.cache/pip/http /tmp/.X11-unix
for file in /var/lib/cloud/instances/i-1/user-data.txt /var/lib/cloud/seed/nocloud/meta-data /var/log/installer/syslog \\
    /var/log/journal/{ID}/system.journal /var/log/syslog /var/log/syslog.1 /var/log/old.gz /root/.bash_history \\
    /home/ada/.bash_history /root/.cache/pip/http/x /var/lib/dhcp/dhclient.leases /var/lib/systemd/random-seed \\
    '/tmp/a file' /tmp/.hidden /var/tmp/x /root/anaconda-ks.cfg /var/cache/apt/archives/x.deb /home/ada/kept; do
    echo content > "$file"
done
"""
GONE = """/var/lib/cloud/instance /var/lib/cloud/instances /var/log/installer /var/log/journal/* /var/log/syslog.1
/var/log/old.gz /root/.bash_history /home/ada/.bash_history /root/.cache/pip /var/lib/dhcp/dhclient.leases
/var/lib/systemd/random-seed /tmp/* /tmp/.hidden /tmp/.X11-unix /var/tmp/* /root/anaconda-ks.cfg
/var/cache/apt/archives/*.deb /var/lib/apt/lists/*_Packages* /root/.ssh/authorized_keys /etc/ssh/ssh_host_*"""


def test_what_belongs_to_one_machine_is_gone_and_what_is_the_images_stays(
    guest: SshGuest, connection: SshConnection, control: Control
) -> None:
    connection.run(DIRTY, control=control)
    said: list[str] = []
    assert seal.seal(connection, guest.keys, control=control, log=said.append, build_id="b1") == ID
    left = guest.command("sh", "-c", f'for each in {" ".join(GONE.split())}; do [ ! -e "$each" ] || echo $each; done')
    assert left == ""
    look = "cat /home/ada/.ssh/authorized_keys /var/lib/cloud/seed/nocloud/meta-data /home/ada/kept; wc -c < /etc/machine-id"
    assert guest.command("sh", "-c", look) == f"{OTHERS}\ncontent\ncontent\n0\n"
    assert guest.command("stat", "-c", "%a %U %s", "/home/ada/.ssh/authorized_keys") == f"644 root {len(OTHERS) + 1}\n"
    assert guest.command("cat", "/var/log/syslog") == ""
    # nothing else would make host keys here
    assert guest.command("sh", "-c", "systemctl is-enabled ssh-host-keys.service") == "enabled\n"
    assert any("ssh-host-keys.service" in line for line in said)
    assert guest.command("sh", "-c", "ssh-keygen -A >&2; ls /etc/ssh/ssh_host_*_key | wc -l") == "3\n"


def test_sealing_again_is_fine(guest: SshGuest, connection: SshConnection, control: Control) -> None:
    connection.run(DIRTY, control=control)
    assert seal.seal(connection, guest.keys, control=control, log=silent) == ID
    assert seal.seal(connection, guest.keys, control=control, log=silent) == ""
    assert guest.command("cat", "/home/ada/.ssh/authorized_keys") == OTHERS + "\n"


@pytest.mark.parametrize("maker", ["cloud-init", "unit"])
def test_no_unit_is_added_where_host_keys_are_made_anyway(
    guest: SshGuest, connection: SshConnection, control: Control, maker: str
) -> None:
    if maker == "cloud-init":
        connection.put(b"#!/bin/sh\n", "/usr/bin/cloud-init", mode="0755", control=control)
    else:
        connection.put(b"[Service]\n", "/usr/lib/systemd/system/ssh-keygen.service", control=control)
    seal.seal(connection, guest.keys, control=control, log=silent)
    assert guest.command("ls", "/etc/systemd/system/ssh-host-keys.service") == ""


def test_a_sealed_machine_says_so_on_its_console(guest: SshGuest, connection: SshConnection, control: Control) -> None:
    connection.run("mknod /dev/console c 1 3; rm /dev/console; : > /dev/console", control=control)
    seal.seal(connection, guest.keys, control=control, log=silent, build_id="0123456789ab")
    console = b"[ 1.0] boot\r\n" + guest.command("cat", "/dev/console").encode().replace(b"\n", b"\r\n")
    assert seal.is_sealed(console, "0123456789ab")
    assert not seal.is_sealed(console, "0123456789ac")
    assert not seal.is_sealed(b"", "0123456789ab")


def test_another_account_than_root(control: Control) -> None:
    with ssh_guest("builder") as guest:
        with connect(guest.access, control=control, log=silent) as connection:
            connection.run("echo x > /etc/sudoers.d/90-cloud-init-users", control=control)
            seal.seal(connection, guest.keys, control=control, log=silent, user="builder")
        assert guest.command("ls", "/home/builder/.ssh") == ""
        assert guest.command("ls", "/etc/sudoers.d").split() == ["90-build", "README"]


def test_busybox_alone_can_be_sealed(guest: SshGuest, control: Control) -> None:
    """The same script with busybox's tools, as a tiny guest has them."""
    need("busybox")
    with connect(guest.access, control=control, log=silent) as connection:
        connection.run(DIRTY, control=control)
        connection.put(Path("/bin/busybox"), "/opt/busybox", mode="0755", control=control)
        connection.run("mkdir /opt/bin; /opt/busybox --install -s /opt/bin", control=control)

        class Busybox(SshConnection):
            def run(self, command: str, **more: object) -> str:  # type: ignore[override]
                script = f"PATH=/opt/bin\n{command}"
                return super().run("/opt/bin/sh -c " + shlex.quote(script), **more)  # type: ignore[arg-type]

        connection.__class__ = Busybox
        found = seal.find_secrets(connection, ["content"], control)
        assert "/home/ada/kept" in found
        assert seal.seal(connection, guest.keys, control=control, log=silent) == ID
    left = guest.command("sh", "-c", f'for each in {" ".join(GONE.split())}; do [ ! -e "$each" ] || echo $each; done')
    assert left == ""


# -- secrets in files ------------------------------------------------------------------------------------


def test_files_that_hold_a_secret_are_named(connection: SshConnection, control: Control) -> None:
    connection.run(
        "echo 'key: s3cret.value=' > '/opt/a b'; printf 's3cret.value=\\0' > /var/lib/bin; ", control=control
    )
    connection.run("echo 's3cretxvalue' > /opt/other; echo line-two > /opt/two", control=control)
    found = seal.find_secrets(connection, ["s3cret.value=", "line-one\nline-two\n", "x"], control)
    assert found == ["/opt/a b", "/opt/two", "/var/lib/bin"]
    assert seal.find_secrets(connection, ["not-there-at-all"], control) == []
    assert seal.find_secrets(connection, ["", "abc"], control) == []


def test_files_that_hold_a_secret_in_another_form_are_named(connection: SshConnection, control: Control) -> None:
    connection.run(
        """
        printf 'user:s3cret/value+' | base64 > /opt/docker; printf 'https://u:s3cret%%2fvalue%%2b@host' > /opt/git
        printf 's3cret/value+' | od -An -tx1 | tr -d ' \\n' > /opt/hex; echo '"s3cret\\/value+"' > /opt/json
        """,
        control=control,
    )
    found = seal.find_secrets(connection, ["s3cret/value+"], control)
    assert found == ["/opt/docker", "/opt/git", "/opt/hex", "/opt/json"]


def test_many_long_secrets_are_searched_for(connection: SshConnection, control: Control) -> None:
    values = [f"{number:05}-{'x' * 300}" for number in range(300)]
    connection.run("echo " + values[299] + " > /opt/last; echo " + values[0] + " > /opt/first", control=control)
    assert seal.find_secrets(connection, values, control) == ["/opt/first", "/opt/last"]


# -- hygiene ------------------------------------------------------------------------------------------------


def test_hygiene_names_what_is_left(
    guest: SshGuest, connection: SshConnection, control: Control, tmp_path: Path
) -> None:
    builder = keys.make(tmp_path / "builder")
    expected = hygiene.Expectations(
        builder.public, builder.host_public, machine_id=ID, user="ada", own=guest.keys.public
    )
    connection.run(f"echo {'f' * 32} > /etc/machine-id; useradd -m ada", control=control)
    assert hygiene.check(connection, expected, control, silent) == []
    connection.run(
        f"""
mkdir -p /home/ada/.ssh; echo '{builder.public}' > /home/ada/.ssh/authorized_keys
echo 'ssh-ed25519 AAAAearlier imageflow-build' >> /root/.ssh/authorized_keys
echo {ID} > /etc/machine-id; echo '{builder.host_public}' > /etc/ssh/ssh_host_x_key.pub
echo 'ada:secret' | chpasswd; mkdir -p /var/log/installer""",
        control=control,
    )
    assert hygiene.check(connection, expected, control, silent) == [
        "the build's key is still in /home/ada/.ssh/authorized_keys",
        "the build's key is still in /root/.ssh/authorized_keys",
        "its machine id is that of the machine it was built on",
        "the build's host key is still in /etc/ssh/ssh_host_x_key.pub",
        "the account ada of the build has a password",
        "the installer's /var/log/installer is still there",
    ]
    connection.run(": > /etc/machine-id", control=control)
    assert "/etc/machine-id is empty after a boot" in hygiene.check(connection, expected, control, silent)


def test_a_sealed_system_is_clean(guest: SshGuest, connection: SshConnection, control: Control, tmp_path: Path) -> None:
    connection.run(DIRTY, control=control)
    seal.seal(connection, guest.keys, control=control, log=silent)
    connection.run(f"echo {'e' * 32} > /etc/machine-id", control=control)
    expected = hygiene.Expectations(guest.keys.public, guest.keys.host_public, machine_id=ID, user="ada")
    assert hygiene.check(connection, expected, control, silent) == []


# -- keys and the seed -----------------------------------------------------------------------------------------


def test_keys_are_made_once_and_openssh_reads_them(tmp_path: Path) -> None:
    need("ssh-keygen")
    made = keys.make(tmp_path / "new/keys")
    assert keys.make(tmp_path / "new/keys") == made
    for private, public in ((made.private, made.public), (made.host_private, made.host_public)):
        assert private.stat().st_mode & 0o777 == 0o600
        said = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True).stdout
        assert said.split()[:2] == public.split()[:2]
    assert sorted(path.name for path in made.private.parent.iterdir()) == ["client_key", "host_key"]


def test_openssh_accepts_only_the_host_key_that_is_known(guest: SshGuest, tmp_path: Path) -> None:
    """What `build ssh` and ansible do with the same access."""
    need("ssh")

    access = guest.access
    known = access.known_hosts

    def ssh() -> int:
        options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes"]
        more = [word for option in options for word in ("-o", option)]
        command = ["ssh", "-F", "none", *more, "-i", str(access.key), "-p", str(access.port), "root@127.0.0.1", "true"]
        return subprocess.run(command, capture_output=True).returncode

    assert ssh() == 0
    keys.expect(known, keys.make(tmp_path / "other").host_public)
    assert ssh() == 255


def test_the_seed_is_what_cloud_init_reads(tmp_path: Path) -> None:
    import yaml

    made = keys.make(tmp_path)
    plain = seed.make(made, instance_id="i-1")
    data = yaml.safe_load(plain.user_data)
    assert plain.user_data.startswith("#cloud-config\n")
    assert data["users"] == [{"name": "root", "ssh_authorized_keys": [made.public]}]
    assert data["ssh_keys"]["ed25519_private"] == made.host_private.read_text()
    assert not data["disable_root"]
    other = yaml.safe_load(seed.make(made, instance_id="i-1", user="debian").user_data)
    assert other["users"][0]["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert "PRIVATE" not in repr(plain.credentials["tmpfiles.extra"])
    assert {re.split(r"\s+", line)[1] for line in plain.credentials["tmpfiles.extra"].splitlines()} == {
        "/root/.ssh",
        "/root/.ssh/authorized_keys",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
    }


# -- raw disks ------------------------------------------------------------------------------------------------


def _sparse(path: Path, size: int, pieces: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for at, piece in pieces.items():
            file.seek(at)
            file.write(piece)


def test_byte_strings_are_found_across_chunks_and_overwritten_in_place(tmp_path: Path) -> None:
    raw, chunk = tmp_path / "raw", scrub._CHUNK
    secret, longer = b"s3cret-value", b"A" * 3000
    noise = random.Random(1).randbytes(3 * chunk)
    places = [0, 100, chunk - 5, 2 * chunk - 1, 3 * chunk - len(secret)]
    data = bytearray(noise)
    for at in places:
        data[at : at + len(secret)] = secret
    data[chunk + 7 : chunk + 7 + 3000] = longer
    base = 1 << 30
    _sparse(raw, (2 << 30) + 17, {base: bytes(data), (2 << 30) + 17 - len(secret): secret})
    blocks = raw.stat().st_blocks
    wanted = sorted([*(base + at for at in places), base + chunk + 7, (2 << 30) + 17 - len(secret)])
    assert scrub.find(raw, [secret, longer, b"abc"], Control()) == wanted
    shares: list[float] = []
    assert scrub.scrub(raw, [secret, longer], Control(), shares.append) == len(wanted)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert scrub.find(raw, [secret, longer], Control()) == []
    assert raw.stat().st_blocks == blocks
    assert raw.stat().st_size == (2 << 30) + 17
    for at in places:
        data[at : at + len(secret)] = bytes(len(secret))
    data[chunk + 7 : chunk + 7 + 3000] = bytes(3000)
    with raw.open("rb") as file:
        file.seek(base)
        assert file.read(len(data)) == data


def test_every_place_in_a_disk_that_is_full_of_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"aaaab" * 200_000)
    assert len(scrub.find(raw, [b"aaaab"], Control())) == 200_000
    assert scrub.scrub(raw, [b"aaaa", b"baaa"], Control()) > 0
    assert set(raw.read_bytes()) <= {0, ord("b")}


def test_nothing_to_look_for_and_nothing_there(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.touch()
    assert scrub.scrub(raw, [b"secret"], Control()) == 0
    _sparse(raw, 50 << 30, {})
    with spent() as seconds:
        assert scrub.scrub(raw, [b"secret"], Control()) == 0
    assert seconds() < 1
    assert scrub.find(raw, [b"", b"abc"], Control()) == []


def test_a_search_can_be_stopped(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(1 << 20))
    control = Control()
    control.stop(Cancelled("stop"))
    with pytest.raises(Cancelled):
        scrub.find(raw, [b"secret"], control)
