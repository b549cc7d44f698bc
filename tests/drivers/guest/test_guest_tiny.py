"""The tiny guest: nothing but a kernel, busybox and dropbear, on a real (emulated) machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow import provisioners
from imageflow.errors import Cancelled, CommandFailed, Refused, Unavailable
from imageflow.guest import connect, hygiene, keys, seal, seed
from imageflow.guest.connect import SshConnection
from imageflow.host.control import Control
from imageflow.provisioners import Context
from tests.guests import machine, ssh, tiny

pytestmark = pytest.mark.xdist_group("tiny guest")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> keys.Keys:
    return keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def bare(made: keys.Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[machine.Bare]:
    folder = tmp_path_factory.mktemp("tiny")
    told = seed.make(made, instance_id="i-1")
    volume = ssh.seed(folder / "seed.iso", told.user_data, told.instance_id)
    drive = ("-drive", f"file={volume},if=none,id=s0,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=s0")
    with machine.running(folder / "machine", disk=tiny.disk(), extra=drive) as running:
        yield running


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 120)


@pytest.fixture
def guest(bare: machine.Bare, made: keys.Keys, control: Control) -> Iterator[SshConnection]:
    access = keys.access(made, "127.0.0.1", bare.port, host_known=True)

    def dead() -> str | None:
        return None if bare.process.poll() is None else "qemu ended"

    with connect.await_ssh(access, control=control, log=print, timeout=100, dead=dead) as connection:
        yield connection


def apply(kind: str, value: object, guest: SshConnection, control: Control, tmp_path: Path) -> None:
    provisioners.find(kind).apply(
        value,
        Context(
            guest=guest,
            access=guest.access,
            folder=tmp_path,
            pins={},
            work=tmp_path,
            control=control,
            log=print,
            progress=lambda _share, _text: None,
            secret={"pw": "open-sesame"}.__getitem__,
        ),
    )


def test_it_is_known_from_the_first_connection_on(guest: SshConnection, control: Control) -> None:
    assert guest.facts.packages is None
    assert guest.facts.python is None
    assert guest.facts.system
    assert (
        guest.run('id -u; echo "$X"; cat', control=control, stdin=b"in", environment={"X": "a\nb'c"}) == "0\na\nb'c\nin"
    )
    with pytest.raises(CommandFailed, match="exit code 3"):
        guest.run("exit 3", control=control)


def test_files_and_trees(guest: SshConnection, control: Control, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep" / ("n" * 150)).write_bytes(data)
    (tmp_path / "tree/run").write_text("#!/bin/sh\n")
    (tmp_path / "tree/run").chmod(0o755)
    guest.put(data, "/opt/a/b", mode="0640", control=control)
    guest.put_tree(tmp_path / "tree", "/opt/tree", control=control)
    guest.put_tree(tmp_path / "tree", "/opt/tree", control=control)
    assert guest.run("cd /opt; cmp a/b tree/deep/n* && ls -A tree; stat -c %a a/b tree/run", control=control) == (
        "deep\nrun\n640\n755"
    )


def test_a_stopped_command_ends_with_everything_that_it_started(guest: SshConnection) -> None:
    control = Control(time.monotonic() + 60)

    def sink(_line: str) -> None:
        control.stop(Cancelled("enough"))

    with pytest.raises(Cancelled):
        guest.run("trap '' TERM; (sleep 301) & setsid sleep 302 & echo on; sleep 303", control=control, log=sink)
    said = guest.run("ps | grep 'sleep 30[0-9]' | grep -v grep || :", control=Control(time.monotonic() + 60))
    assert said == ""


def test_what_a_lost_connection_left_running_is_ended(guest: SshConnection, control: Control) -> None:
    with pytest.raises(Unavailable, match="was lost"):
        # dropbear's process for this connection is the parent of the session's shell
        guest.run("sleep 304 & kill -9 $PPID; sleep 305", control=control)
    assert guest.run("ps | grep 'sleep 30[0-9]' | grep -v grep || :", control=control) == ""


def test_accounts_files_and_scripts(guest: SshConnection, control: Control, tmp_path: Path) -> None:
    user = {"name": "ada", "uid": 1234, "groups": ["web"], "shell": "/bin/sh", "password": {"secret": "pw"}}
    apply("users", [user | {"authorized_keys": ["ssh-ed25519 AAAA ada"]}], guest, control, tmp_path)
    files = [{"content": "{{ 1 + 1 }}\n", "path": "/etc/new/two", "owner": "ada", "mode": "0600", "template": True}]
    apply("files", files, guest, control, tmp_path)
    apply("shell", {"run": "#!/bin/sh -eu\necho made > /opt/made\n"}, guest, control, tmp_path)
    look = "id ada; cat /etc/new/two /home/ada/.ssh/authorized_keys /opt/made; stat -c '%a %U' /etc/new/two"
    said = guest.run(look, control=control).splitlines()
    assert said[0].startswith("uid=1234(ada)")
    assert "(web)" in said[0]
    assert said[1:] == ["2", "ssh-ed25519 AAAA ada", "made", "600 ada"]
    assert (
        guest.run("grep '^ada:[$]' /etc/shadow | wc -l; grep -c open-sesame /etc/shadow || :", control=control)
        == "1\n0"
    )


@pytest.mark.parametrize("kind", ["packages", "pip", "puppet"])
def test_what_it_can_not_do(kind: str, guest: SshConnection, control: Control, tmp_path: Path) -> None:
    value = {"manifest": "site.pp", "modules": []} if kind == "puppet" else ["flask"]
    with pytest.raises((Refused, CommandFailed), match=r"has none of|ended with exit code|is not in the machine"):
        apply(kind, value, guest, control, tmp_path)


def test_secrets_hygiene_and_at_last_the_seal(
    bare: machine.Bare, guest: SshConnection, made: keys.Keys, control: Control
) -> None:
    guest.run("printf 'a\\0token=s3cret-value' > /opt/leak; echo other > /opt/other", control=control)
    assert seal.find_secrets(guest, ["s3cret-value", "second-value"], control) == ["/opt/leak"]
    expected = hygiene.Expectations(made.public, made.host_public)
    assert [each for each in hygiene.check(guest, expected, control, print) if "key" in each]
    guest.run("mkdir -p /tmp /var/log; echo x > /tmp/x; echo y > /var/log/messages", control=control)
    seal.seal(guest, made, control=control, log=print, build_id="0123456789ab", power_off=True)
    guest.close()
    console = bare.off(30)
    assert seal.is_sealed(console, "0123456789ab")
