"""The build's way into its machine, which stays open until sealing whatever a step does.

A step may replace authorized_keys or host keys, harden sshd, drop a firewall, remove the account or its sudo: all of
that is for the image, not for the build. What was taken away on the disk is put back where sealing removes it anyway.
Where that is not enough, an SSH server of our own runs beside what the image has, and comes up at each boot:
`/etc/imageflow`, which sealing removes, too. All of it is done over the connection of the step, which is still open.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.errors import CommandFailed, ImageflowError, LockedOut
from imageflow.guest import Guest, accounts, keys, way_in_server
from imageflow.guest.connect import Reserved, SshConnection
from imageflow.guest.keys import Keys
from imageflow.host.control import Control

_LOOKED, _ACCOUNT = "way-in", "account"  # files beside the keys
# What decides on a login, as one digest, and what the next boot starts. No line changes by itself.
_LOOK = r"""
cd /
home=$(grep "^$user:" /etc/passwd | cut -d: -f6)
decides() {
    for each in /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* /etc/ssh/ssh_host_*_key.pub /etc/passwd /etc/shadow \
        /etc/group /etc/sudoers /etc/sudoers.d/* /etc/pam.d/* /etc/security/*.conf /etc/nsswitch.conf /etc/nologin \
        /etc/hosts.allow /etc/hosts.deny /etc/login.defs /etc/ssh/authorized_keys* /etc/dropbear/authorized_keys \
        "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"; do
        [ ! -f "$each" ] || sha256sum "$each"
    done
    ls -ldn "$home" "$home/.ssh" "$home/.ssh/authorized_keys"
    ls -lR /etc/systemd/system /etc/runlevels | grep -e ssh -e dropbear -e '^l.*nft' -e '^l.*iptables' -e '^l.*firewall' \
        -e '^l.*ufw' -e netfilter
    if command -v nft; then nft -s list ruleset
    elif [ -s /proc/net/ip_tables_names ]; then iptables-save | sed 's/\[.*\]//; /^#/d'; fi
    for each in /proc/net/tcp /proc/net/tcp6; do
        while read -r number place other state rest; do [ "$state" != 0A ] || echo "${place##*:}"; done < "$each"
    done | sort
}
enabled() { for each; do case $(systemctl is-enabled "$each" 2>/dev/null) in enabled*) echo yes; return ;; esac; done; }
echo "digest=$(decides 2>/dev/null | sha256sum)"
if [ -d /run/systemd/system ] && ls /lib/systemd/system/ssh*.service /usr/lib/systemd/system/ssh*.service >/dev/null 2>&1; then
    [ "$(enabled ssh.service sshd.service ssh.socket sshd.socket imageflow-way-in.service)" ] || echo 'next=no SSH server'
    [ ! "$(enabled nftables ufw firewalld iptables ip6tables netfilter-persistent shorewall)" ] ||
        [ "$(enabled imageflow-way-in.service)" ] || echo 'next=a firewall'
fi
server=$(PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin command -v sshd) && echo "server=$server" || :
"""
_HOST_KEY = r"""
file=/etc/ssh/ssh_host_ed25519_key
if [ "$(cat "$file" 2>/dev/null)" != "$host" ]; then
    (umask 077; mkdir -p /etc/ssh; printf '%s\n' "$host" > "$file")
    printf '%s\n' "$host_public" > "$file.pub"
    echo "the machine's host key"
    # one that is started again presents it, too
    for each in /run/sshd.pid /var/run/sshd.pid; do
        if [ -s "$each" ] && "${server:-sshd}" -t; then kill -HUP "$(cat "$each")"; break; fi
    done
fi
"""
_HOST_KEYS = "cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null || :"


@dataclass(frozen=True, slots=True)
class Look:
    """What decides whether the build can log in, and after the next boot."""

    digest: str
    next: tuple[str, ...]  # what the next boot has or lacks: 'a firewall', 'no SSH server'
    server: str  # path of OpenSSH's server; '' when there is none


@dataclass(frozen=True, slots=True)
class WayIn:
    """The way into one machine."""

    keys: Keys
    user: str  # the account that the recipe names
    seeded: bool  # the machine was given our host key; otherwise it has made its own
    connect: Callable[[], SshConnection]  # log in anew, with the account in use; raises when that is not possible soon
    control: Control
    log: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.keys.private.parent

    @contextlib.contextmanager
    def before(self, guest: SshConnection) -> Iterator[Reserved | None]:
        """Before a step: know how it is now, and have a shell for `hold` that nothing can take away."""
        if not (self.folder / _LOOKED).exists():
            (self.folder / _LOOKED).write_text(look(guest, self.user, self.control).digest)
        spare = guest.reserve(self.control)
        try:
            yield spare
        finally:
            if spare is not None:
                spare.close()

    def hold(self, guest: SshConnection, stages: tuple[str, ...], spare: Reserved | None = None) -> None:
        """After a step: open it again if the step has closed it. Raises LockedOut when that can't be done.

        `stages`: keys of the layers that will have what this does.
        """
        try:
            now = look(guest, self.user, self.control)
        except CommandFailed as error:
            if spare is None:
                raise LockedOut(f"{guest.access.user} can't run commands as root any more: {error.hint}") from None
            why = f"{guest.access.user} can't run commands as root any more ({error.hint})"
            self._serve(guest, stages, why, spare)
            now = look(guest, self.user, self.control)
        noted = self.folder / _LOOKED
        if now.digest and noted.exists() and noted.read_text() == now.digest:
            return
        for what in self._restore(guest, now):
            self.log(f"put back until the machine is sealed: {what}")
        if (closed := self._closed(guest, now)) is not None:
            self._serve(guest, stages, closed, spare)
        noted.write_text(look(guest, self.user, self.control).digest)

    def _restore(self, guest: SshConnection, now: Look) -> list[str]:
        """Put back what sealing removes anyway; -> what that was."""
        done = []
        known = guest.run(f"grep -c '^{self.user}:' /etc/passwd || :", control=self.control)
        if known != "0" and not self._authorized(guest):
            script = accounts.script([{"name": self.user, "authorized_keys": [self.keys.public]}])
            with contextlib.suppress(CommandFailed):  # then the server is needed
                guest.run(f"set -e\n{script}", control=self.control)
                done.append(f"the build's key, in the authorized_keys of {self.user}")
        if self.seeded:
            settings = {"host": self.keys.host_private.read_text().rstrip("\n"), "host_public": self.keys.host_public}
            head = f"server={shlex.quote(now.server)}\n" + "".join(
                f"{k}={shlex.quote(v)}\n" for k, v in settings.items()
            )
            done += guest.run(head + _HOST_KEY, control=self.control).splitlines()
        else:
            keys.also_expect(self.keys.known_hosts, guest.run(_HOST_KEYS, control=self.control).splitlines())
        return done

    def _authorized(self, guest: SshConnection) -> bool:
        head = f"key={shlex.quote(self.keys.public.split()[1])}\nuser={shlex.quote(self.user)}\n"
        script = 'grep -qF "$key" "$(grep "^$user:" /etc/passwd | cut -d: -f6)/.ssh/authorized_keys" && echo yes || :'
        return guest.run(head + script, control=self.control) == "yes"

    def _closed(self, guest: SshConnection, now: Look) -> str | None:
        """Why a login would not work now, or after the next boot; None when it would."""
        try:
            self.connect().close()
            if now.server:
                guest.rehearse_login(f"mkdir -p /run/sshd; exec {shlex.quote(now.server)} -i", self.control)
        except ImageflowError as error:
            self.control.check()
            return error.message
        return f"the next boot has {' and '.join(now.next)}" if now.next else None

    def _serve(self, guest: SshConnection, stages: tuple[str, ...], why: str, spare: Reserved | None) -> None:
        self.log(f"{why}: until it is sealed, the machine has an SSH server for the build")
        script = way_in_server.script(self.keys)
        guest.run(script, control=self.control, log=self.log, name="keeping the build's way in", reserved=spare)
        remember(self.folder, "root", stages)
        try:
            guest.adopt(self.connect())
        except ImageflowError as error:
            self.control.check()
            raise LockedOut(f"this step has closed the build's way into the machine: {why}") from error


def look(guest: Guest, user: str, control: Control) -> Look:
    """What decides on a login now."""
    lines = guest.run(f"user={shlex.quote(user)}\n{_LOOK}", control=control).splitlines()
    found = [line.partition("=") for line in lines]
    single = {name: value for name, _, value in found}
    following = tuple(value for name, _, value in found if name == "next")
    return Look(single.get("digest", ""), following, single.get("server", ""))


def serves(guest: Guest, control: Control) -> bool:
    """Whether the machine lets the build in by a server of our own only."""
    return guest.run("[ ! -e /etc/imageflow/way-in ] || echo yes", control=control).strip() == "yes"


def account(folder: Path, user: str) -> str:
    """The account to log in as: `user`, or another one once the build has its own way in; `folder`: that of the keys."""
    try:
        return str(json.loads((folder / _ACCOUNT).read_text())["account"])
    except (FileNotFoundError, ValueError):
        return user


def remember(folder: Path, name: str, stages: tuple[str, ...]) -> None:
    """From now on log in as `name`, in the running machine and in one that starts from these layers."""
    aside = folder / f"{_ACCOUNT}.new"
    aside.write_text(json.dumps({"account": name, "stages": stages}))
    aside.rename(folder / _ACCOUNT)


def started(folder: Path, key: str) -> None:
    """The machine starts from this layer: what is known of another one does not hold."""
    (folder / _LOOKED).unlink(missing_ok=True)
    try:
        stages = json.loads((folder / _ACCOUNT).read_text())["stages"]
    except (FileNotFoundError, ValueError):
        return
    if key not in stages:
        (folder / _ACCOUNT).unlink()
