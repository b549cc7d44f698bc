"""The listing of a file tree, by coreutils and findutils as well as by busybox, of real trees and a real Debian."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imageflow import content
from imageflow.content import listing
from imageflow.guest import inventory, seal
from imageflow.guest.connect import connect
from imageflow.host.control import Control
from tests.drivers.machine import need
from tests.drivers.sshguest import ssh_guest

UUIDS = "6b2f1f4e-0d0f-4d0a-9f3c-0123456789ab", "00000000-1111-2222-3333-444444444444"
BUSYBOX = ("find", "stat", "sha256sum", "sort", "sed", "sh", "xargs", "cat", "mktemp", "rm", "nproc", "true")


@pytest.fixture(params=["coreutils", "busybox"])
def lister(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], bytes]:
    """Lists a tree with one family of tools."""
    need(*BUSYBOX, "getcap", root=True)
    path = os.environ["PATH"]
    if request.param == "busybox":
        need("busybox")
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in BUSYBOX:
            (tools / name).symlink_to(str(shutil.which("busybox")))
        path = f"{tools}:{path}"

    def made(root: Path) -> bytes:
        done = subprocess.run(
            ["sh", "-c", listing.script(), "sh", str(root)], env={"PATH": path}, capture_output=True, check=True
        )
        assert done.stderr == b""
        return done.stdout

    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything, and odd names."""
    root = tmp_path / "a tree"
    for folder in ("etc", "boot/grub/i386-pc", "usr/bin", "var/log", "proc", "a b", "home/ada"):
        (root / folder).mkdir(parents=True)
    (root / "etc/fstab").write_text(f"UUID={UUIDS[0]} / ext4 noatime 0 1\n")
    (root / "boot/grub/grub.cfg").write_text(f"search --fs-uuid --set=root {UUIDS[0]}\nlinux /v root=UUID={UUIDS[0]}\n")
    (root / "etc/shadow").write_text("root:*:20000:0:99999:7:::\nada:$6$salt$hash:20001:0:99999:7:::\n")
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "empty").touch()
    os.link(root / "usr/bin/tool", root / "usr/bin/again")
    for name in (
        "it's",
        'a "b"',
        "back\\slash",
        "a b/-> c",
        "$HOME *",
        b"not utf-8 \xff".decode(errors="surrogateescape"),
    ):
        (root / name).write_text(name if name.isascii() else "odd")
    (root / "link -> x").symlink_to("it's -> it")
    (root / "quoted'").symlink_to("'quoted'")
    (root / "nowhere").symlink_to("/does/not/exist")
    (root / "etc/fstab.link").symlink_to("fstab")
    os.mkfifo(root / "pipe")
    os.mknod(root / "device", 0o600 | 0o060000, os.makedev(8, 300))
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(root)
        server.bind("socket")
        os.chdir(before)
    return root


def test_both_families_see_the_same(tree: Path, lister: Callable[[Path], bytes]) -> None:
    """And it is what is there."""
    entries = {entry[0]: entry[1:] for entry in content.entries(lister(tree))}
    assert entries["/usr/bin/tool"][:4] == ["file", "0755", 0, 0] == entries["/usr/bin/again"][:4]
    assert entries["/link -> x"] == ["link", "0777", 0, 0, "it's -> it"]
    assert entries["/quoted'"] == ["link", "0777", 0, 0, "'quoted'"]
    assert entries["/device"] == ["block device", "0600", 0, 0, 8, 300]
    assert entries["/pipe"][0] == "pipe"
    assert "/socket" not in entries
    there = {f"/{path.relative_to(tree)}" for path in tree.rglob("*")} - {"/socket"} | {"/"}
    assert set(entries) == there
    plain = subprocess.run(["sh", "-c", listing.script(), "sh", str(tree)], capture_output=True, check=True).stdout
    assert content.digest(None, lister(tree)) == content.digest(None, plain)


CHANGES = {
    "content": "echo 2 > usr/bin/tool",
    "mode": "chmod 0754 usr/bin/tool",
    "setuid": "chmod 4755 usr/bin/tool",
    "sticky folder": "chmod 1755 home/ada",
    "owner": "chown 12 usr/bin/tool",
    "group": "chgrp 12 home",
    "owner of a link": "chown -h 12 nowhere",
    "target": "ln -sfn /elsewhere nowhere",
    "new file": "touch etc/new",
    "new folder": "mkdir home/bob",
    "gone": "rm empty",
    "kind": "rm pipe; touch pipe; chmod 644 pipe",
    "device": "rm device; mknod -m 600 device b 8 301",
    "renamed": "mv empty void",
    "odd name": "echo more >> 'back\\slash'",
    "mount options": "sed -i s/noatime/relatime/ etc/fstab",
    "boot option": "sed -i 's/$/ quiet/' boot/grub/grub.cfg",
    "password": "sed -i 's/hash/hush/' etc/shadow",
    "account": "echo 'bob:*:20000:0:99999:7:::' >> etc/shadow",
    "capability": "setcap cap_net_raw=ep usr/bin/tool",
    "permissions of /var/log": "chmod 0700 var/log",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_another_content(tree: Path, lister: Callable[[Path], bytes], change: str) -> None:
    before = content.digest(None, lister(tree))
    subprocess.run(["sh", "-ec", CHANGES[change]], cwd=tree, check=True)
    assert content.digest(None, lister(tree)) != before


def test_another_build_is_the_same_content(tree: Path, lister: Callable[[Path], bytes], tmp_path: Path) -> None:
    """Another day: times, UUIDs, identities, and every file another one, in another order."""
    before = content.digest(None, lister(tree))
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(tree.iterdir(), reverse=True):
        subprocess.run(["cp", "-a", path, again], check=True)
    subprocess.run(
        [
            "sh",
            "-ec",
            f"""
            find . -type f -exec touch -h -d '2030-01-02' {{}} +
            sed -i s/{UUIDS[0]}/{UUIDS[1]}/ etc/fstab boot/grub/grub.cfg
            sed -i 's/:2000/:2100/' etc/shadow
            echo 0123456789abcdef0123456789abcdef > etc/machine-id
            mkdir -p tmp etc/ssh var/lib/dpkg usr/lib/python3/__pycache__ var/cache/apt lost+found
            echo a > etc/ssh/ssh_host_rsa_key; echo a > var/lib/dpkg/status; echo a > var/log/syslog
            echo a > boot/initrd.img-6.1; echo a > boot/grub/grubenv; echo a > boot/grub/i386-pc/core.img
            echo a > usr/lib/python3/__pycache__/a.pyc; echo a > 'etc/shadow-'; echo a > proc/cpuinfo; echo a > tmp/a
            """,
        ],
        cwd=again,
        check=True,
    )
    for folder in ("tmp", "etc/ssh", "var/lib/dpkg", "usr/lib/python3", "var/cache/apt"):  # a folder counts
        (tree / folder).mkdir(parents=True)
    assert content.digest(None, lister(tree)) == content.digest(None, lister(again)) != before


def test_a_name_with_a_line_break_is_not_known(tree: Path, lister: Callable[[Path], bytes]) -> None:
    (tree / "two\nlines").touch()
    found, why = content.known_digest(None, lister(tree))
    assert found is None
    assert "not known" in why


def test_a_mounted_file_system_of_the_tree_is_in_it_and_another_kind_is_not(tree: Path) -> None:
    """As diskimage-builder mounts partitions, in a namespace of its own."""
    need("unshare", "mkfs.ext4", root=True)
    image = Path(f"{tree}.image")
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    (tree / "srv with space").mkdir()
    script = """
        mount -o loop "$1.image" "$1/srv with space"
        mount -t tmpfs none "$1/home"
        echo inside > "$1/srv with space/file"
        echo memory > "$1/home/file"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script + listing.script(), "sh", str(tree)],
        capture_output=True,
        check=True,
    )
    paths = [entry[0] for entry in content.entries(done.stdout)]
    assert "/srv with space/file" in paths
    assert "/home" in paths
    assert "/home/file" not in paths


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 120)


def _silent(_line: str) -> None:
    pass


DIRTY = """
set -e
useradd -m ada
mkdir -p /home/ada/.ssh
{ echo 'ssh-ed25519 AAAAothers ada@home'; cat /root/.ssh/authorized_keys; } > /home/ada/.ssh/authorized_keys
echo used > /root/.bash_history
echo a > /etc/ssh/ssh_host_new_key
"""


def test_a_machine_is_listed_as_sealing_will_leave_it(control: Control) -> None:
    """Before, it can be asked; afterwards, this connection is the last one that there is."""
    with ssh_guest() as guest, connect(guest.access, control=control, log=_silent) as connection:
        connection.run(DIRTY, control=control)
        seal.clean(connection, control=control, log=_silent)
        began = time.monotonic()
        before = inventory.tree(connection, guest.keys, control=control)
        took = time.monotonic() - began
        seal.seal(connection, guest.keys, control=control, log=_silent)
        after = connection.output(listing.script(), control=control)
        assert [entry for entry in content.entries(before) if "/ada/" in entry[0]] != []
        assert content.entries(before) == content.entries(after)
        assert content.digest([], before) == content.digest([], after)
        assert len(content.entries(before)) > 3000
        assert connection.output("head -c 5000000 /dev/zero", control=control) == bytes(5000000)  # more than a listing
        print(f"{len(content.entries(before))} paths in {took:.1f} s")
