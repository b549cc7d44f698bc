"""Steps that take the build's way in away: it is there again, after a reboot too, and sealing leaves what they meant."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imageflow.guest import connect, keys, seal, seed, way_in
from imageflow.guest.connect import SshConnection
from imageflow.guest.login import Patience
from imageflow.guest.way_in import WayIn
from imageflow.host.control import Control
from tests.drivers.booted_guest import BootedGuest, booted_guest

_SOON = Patience(refused=2.0, silent=6.0)


class Site:
    """A guest, and the build's way into it."""

    def __init__(self, guest: BootedGuest) -> None:
        self.guest = guest
        self.control = Control(time.monotonic() + 100)
        self.log: list[str] = []
        self.way_in = WayIn(guest.keys, guest.user, True, self.connect, self.control, self.log.append)

    def connect(self) -> SshConnection:
        user = way_in.account(self.way_in.folder, self.guest.user)
        access = keys.access(self.guest.keys, "127.0.0.1", self.guest.port, user, host_known=True)
        return connect.await_ssh(
            access,
            control=self.control,
            log=self.log.append,
            timeout=60,
            dead=lambda: None,
            patience=lambda: _SOON,
        )

    def step(self, script: str) -> None:
        """What a step of a build does, with what is done around it."""
        with self.connect() as made:
            with self.way_in.before(made) as spare:
                made.run("set -eu\n" + script, control=self.control)
                self.way_in.hold(made, ("stage",), spare)
            assert made.run("id -u", control=self.control) == "0", "it goes on over this connection"

    def reboot(self) -> None:
        """Reboot it without a login."""
        before = self.guest.command("cat", "/proc/sys/kernel/random/boot_id")
        self.guest.command("systemctl", "reboot")
        while self.guest.command("cat", "/proc/sys/kernel/random/boot_id") in ("", before):
            self.control.wait(0.2)
        self.guest.await_port()

    def works(self) -> bool:
        with self.connect() as made:
            return made.run("id -u", control=self.control) == "0"

    def seal(self) -> None:
        with self.connect() as made:
            seal.seal(made, self.guest.keys, control=self.control, log=self.log.append, user=self.guest.user)


HARDEN = "printf 'PermitRootLogin no\\nAllowUsers ops\\n' > /etc/ssh/sshd_config.d/00-hard.conf\n"
SERVER = "an SSH server for the build"
STEPS = {
    "keys": ("echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB ops' > /root/.ssh/authorized_keys", "put back"),
    "no keys": ("rm -rf /root/.ssh", "put back"),
    "keys that can't be changed": (
        "rm -rf /root/.ssh; mkdir /root/.ssh; ln -s /dev/null /root/.ssh/authorized_keys",
        SERVER,
    ),
    "config": (HARDEN + "systemctl restart ssh", SERVER),
    "config for the next boot": (HARDEN, SERVER),
    "a config that is none": ("echo 'No such thing' > /etc/ssh/sshd_config.d/00-hard.conf", SERVER),
    "stopped": ("systemctl disable --now ssh", SERVER),
    "masked": ("systemctl stop ssh; systemctl mask ssh", SERVER),
    "host keys": ("rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh", "put back"),
    "another port": (
        "rm /etc/ssh/sshd_config.d/50-port.conf; echo Port 2 >> /etc/ssh/sshd_config; systemctl restart ssh",
        SERVER,
    ),
}
USER_STEPS = {
    "sudo": ("rm /etc/sudoers.d/90-build", SERVER),
    "the account": ("userdel -f builder", SERVER),
    "the password policy": ("echo 'builder:x' | chpasswd; chage -d 2000-01-01 -M 1 builder", SERVER),
    "a shell": ("usermod -s /usr/sbin/nologin builder", SERVER),
}


@pytest.mark.sliced
@pytest.mark.parametrize("name", [*STEPS, *USER_STEPS])
def test_the_way_in_stays_open(name: str) -> None:
    script, how = (STEPS | USER_STEPS)[name]
    with booted_guest("builder" if name in USER_STEPS else "root") as guest:
        site = Site(guest)
        site.step(script)
        assert [line for line in site.log if how in line], site.log
        assert site.works()
        site.step("systemctl restart ssh || echo masked")  # as a later step may
        assert site.works()
        site.reboot()
        assert site.works(), guest.console()[-3000:].decode(errors="replace")
        site.seal()
        left = guest.command(
            "sh", "-c", "cd /; grep -rlsI imageflow /etc /root/.ssh /home; find / -xdev -name '*imageflow*'"
        )
        assert [line for line in left.split() if not line.startswith(("/run", "/proc", "/tmp"))] == []
        meant = Path(guest.root, "etc/ssh/sshd_config.d/00-hard.conf")
        assert meant.exists() == ("00-hard" in script)


def test_a_step_that_takes_nothing_away_changes_nothing() -> None:
    with booted_guest() as guest:
        site = Site(guest)
        site.step("echo 1 > /srv/x")
        site.step("useradd ops; mkdir -p /etc/ssh/sshd_config.d; echo 'UseDNS no' > /etc/ssh/sshd_config.d/20-x.conf")
        assert site.log == []
        assert not Path(guest.root, "etc/imageflow").exists()


def test_sudo_knows_its_own_host_and_sealing_forgets_the_name() -> None:
    with booted_guest("builder") as guest:
        site = Site(guest)
        before = guest.command("cat", "/etc/hosts")
        with site.connect() as made:
            said = made.run("sudo -n true 2>&1; sudo -u builder sudo -n true 2>&1", control=site.control)
            assert said.strip() == ""
        site.seal()
        assert guest.command("cat", "/etc/hosts") == before


def test_the_seed_opens_a_copy_of_an_image_that_lets_no_build_in(tmp_path: Path) -> None:
    """As the throw-away machine of a finished image: cloud-init, another key, a hardened server."""
    control = Control(time.monotonic() + 200)
    other = keys.make(tmp_path / "other")
    with booted_guest() as guest:
        site = Site(guest)
        with site.connect() as made:
            made.run(
                "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update\n"
                "apt-get -qq --no-install-recommends install cloud-init",
                control=control,
            )
            made.put(b"datasource_list: [NoCloud]\n", "/etc/cloud/cloud.cfg.d/99-seed.cfg", control=control)
            data = seed.make(other, instance_id="copy", server=guest.port).user_data
            made.put(data.encode(), "/var/lib/cloud/seed/nocloud/user-data", mode="0600", control=control)
            made.put(b"instance-id: copy\n", "/var/lib/cloud/seed/nocloud/meta-data", control=control)
            made.run(HARDEN + "rm -r /root/.ssh", control=control)
        site.reboot()
        access = keys.access(other, "127.0.0.1", guest.port, "root", host_known=True)
        with connect.await_ssh(access, control=control, log=print, timeout=60, dead=lambda: None) as made:
            assert "AllowUsers ops" in made.run("cat /etc/ssh/sshd_config.d/00-hard.conf", control=control)
