"""Turns a build machine into an image: its identity is removed and created again at the first boot."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator

from imageflow.content.forms import forms
from imageflow.errors import CommandFailed
from imageflow.guest import Guest, scripts, way_in_server
from imageflow.guest.keys import COMMENT, Keys
from imageflow.host.control import Control

_MARKER = "imageflow: sealed"
_VARIABLE = 96 << 10  # bytes; Linux allows 128 KiB for one variable
# Shell functions: `homes` and `key_files` print one a line.
ACCOUNTS = """
homes() {  # of every account, each once
    { cut -d: -f6 /etc/passwd; echo /root; for each in /home/*; do echo "$each"; done; } | sort -u | while read -r each; do
        [ "$each" = / ] || [ ! -d "$each" ] || echo "$each"
    done
}
key_files() {
    homes | while read -r home; do
        for file in "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2"; do [ ! -f "$file" ] || echo "$file"; done
    done
    for file in /etc/ssh/authorized_keys /etc/ssh/authorized_keys/* /etc/ssh/authorized_keys.d/* /etc/dropbear/authorized_keys; do
        [ ! -f "$file" ] || echo "$file"
    done
}
"""
_CLEAN = """
umask 022
stay=
if rm -f --one-file-system /nothing 2>/dev/null; then stay=--one-file-system; fi
empty() { for each; do rm -rf $stay "$each"/* "$each"/.[!.]* "$each"/..?* 2>/dev/null || :; done; }

# caches
if command -v apt-get >/dev/null 2>&1; then apt-get clean || :; fi
if command -v dnf >/dev/null 2>&1; then dnf -q clean all || :; fi
if command -v zypper >/dev/null 2>&1; then zypper -q clean --all || :; fi
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/apt/*.bin /var/cache/apk/* /var/cache/dnf/* /var/cache/yum/* /var/cache/zypp/*
homes | while read -r home; do
    rm -rf "$home/.cache/pip" "$home/.ansible"
    for name in .bash_history .ash_history .sh_history .zsh_history .history .python_history .lesshst .viminfo .wget-hsts; do
        rm -f "$home/$name"
    done
done

# what cloud-init remembers; seeds that are part of the image stay
for each in /var/lib/cloud/*; do [ "${each##*/}" = seed ] || rm -rf "$each"; done
if [ -d /etc/cloud ]; then
    rm -f /etc/network/interfaces.d/50-cloud-init /etc/netplan/50-cloud-init.yaml /etc/systemd/network/10-cloud-init-*
    rm -f /etc/NetworkManager/system-connections/cloud-init-*
fi

# what this machine has learned of its network, and its random numbers
rm -f /var/lib/dhcp/*lease* /var/lib/dhclient/*lease* /var/lib/dhcpcd/*lease* /var/lib/NetworkManager/*lease*
rm -f /var/lib/NetworkManager/secret_key /var/lib/NetworkManager/timestamps /etc/udev/rules.d/70-persistent-net.rules
if command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then  # it writes a new seed when it stops
    systemctl stop systemd-random-seed.service >/dev/null 2>&1 || :
fi
rm -f /var/lib/systemd/random-seed /var/lib/random-seed /var/lib/urandom/random-seed /var/lib/seedrng/* \
    /var/lib/systemd/credential.secret /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed

# what the installer left, logs, and temporary files
rm -rf /root/anaconda-ks.cfg /root/original-ks.cfg /root/initial-setup-ks.cfg /var/log/anaconda /var/log/installer \
    /var/log/YaST2 /var/adm/autoinstall
rm -rf /var/log/journal/*
if [ -d /var/log ]; then
    find /var/log -xdev -type f \\( -name '*.gz' -o -name '*.xz' -o -name '*.[0-9]' -o -name '*.old' \\) -exec rm -f {} +
    find /var/log -xdev -type f | while read -r file; do : > "$file"; done
fi
[ ! -d /var/spool/mail ] || find /var/spool/mail/ -xdev -type f -exec rm -f {} +
empty /tmp /var/tmp

# new host keys at the first boot, where nothing else makes them
makes_host_keys() {
    if command -v cloud-init >/dev/null 2>&1 && [ ! -e /etc/cloud/cloud-init.disabled ]; then return 0; fi
    for each in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        for unit in "$each"/*ssh*keygen* "$each"/*ssh*host*key*; do [ ! -e "$unit" ] || return 0; done
    done
    return 1
}
if [ -d /etc/systemd/system ] && command -v sshd >/dev/null 2>&1 && command -v ssh-keygen >/dev/null 2>&1; then
    if ! makes_host_keys; then
        cat > /etc/systemd/system/ssh-host-keys.service <<'UNIT'
[Unit]
Description=Make the SSH host keys that are missing
Before=ssh.service sshd.service ssh.socket
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
UNIT
        mkdir -p /etc/systemd/system/multi-user.target.wants
        ln -sf ../ssh-host-keys.service /etc/systemd/system/multi-user.target.wants/ssh-host-keys.service
        echo 'host keys will be made by ssh-host-keys.service' >&2
    fi
fi

"""
_SEAL = (
    """
id=
[ ! -f /etc/machine-id ] || read -r id < /etc/machine-id || :
echo "machine-id=$id"

# the last things: nobody can log in any more, so this goes on to its end even if nobody waits for it
trap '' HUP PIPE TERM
if [ -f /etc/machine-id ]; then
    : > /etc/machine-id
    [ ! -f /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
fi
if [ "$user" != root ]; then rm -f /etc/sudoers.d/90-cloud-init-users; fi
if hosts_changed; then
    rest=$(hosts_of_image)
    if [ "$rest" ]; then printf '%s\\n' "$rest" > /etc/hosts; else rm -f /etc/hosts; fi
fi
"""
    + way_in_server.REMOVE
    + """
key_files | while read -r file; do
    if grep -q -e "$key" -e "$comment\\$" "$file"; then  # those of earlier builds, whose layers this one stands on, too
        rest=$(grep -v -e "$key" -e "$comment\\$" "$file")
        if [ "$rest" ]; then printf '%s\\n' "$rest" > "$file"; else rm -f "$file"; fi
    fi
done
rm -f /etc/ssh/ssh_host_* /etc/dropbear/dropbear_*_host_key
sync
{ fstrim -a || fstrim /; } >/dev/null 2>&1 || :
sync
{ echo "$marker" > /dev/console; } 2>/dev/null || :
if [ "$off" ]; then
    (sleep 1; systemctl poweroff || poweroff || poweroff -f) >/dev/null 2>&1 </dev/null &
fi
"""
)
# grep gets the patterns from a shell builtin: they appear in no process list and no file.
_FIND = r"""
[ "$imageflow_patterns" ] || exit 0
if printf 'a\0b' | grep -qF b; then
    look='printf "%s\n" "$imageflow_patterns" | grep -lsF -f - -- "$@"'
else  # busybox's grep sees nothing behind a NUL
    look='for each; do
        if printf "%s\n" "$imageflow_patterns" | { exec 3<&0; tr "\0" "\n" < "$each" | grep -qF -f /proc/self/fd/3; }; then
            echo "$each"
        fi
    done'
fi
{ echo /; while read -r device place kind rest; do
    case $device:$kind in /dev/loop*:* | *:iso9660 | *:udf | *:squashfs) ;; /dev/*) echo "$place" ;; esac
done < /proc/mounts; } | sort -u | while read -r place; do
    find "$place" -xdev -type f -size +0 -exec sh -c "$look" sh {} +
done | sort -u | head -n 100
exit 0
"""


def clean(guest: Guest, *, control: Control, log: Callable[[str], None]) -> None:
    """Remove caches, logs, and the state of this one machine and its network; login still works.

    Idempotent; sealing includes it.
    """
    guest.run(ACCOUNTS + _CLEAN, control=control, log=log)


def seal(
    guest: Guest,
    keys: Keys,
    *,
    control: Control,
    log: Callable[[str], None],
    user: str = "root",
    build_id: str = "",
    power_off: bool = False,
) -> str:
    """Seal the machine; -> its former machine id, '' if it had none (any more).

    Idempotent, but login works only until sealing has finished: then the console reports it (see `is_sealed`),
    and the machine only has to be powered off, which it does itself with `power_off`.
    """
    settings = {
        "key": keys.public.split()[1],
        "comment": f" {COMMENT}",
        "user": user,
        "marker": f"{_MARKER} {build_id}",
        "off": "yes" if power_off else "",
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    said = guest.run(head + ACCOUNTS + scripts.HOSTS + way_in_server.FILES + _CLEAN + _SEAL, control=control, log=log)
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return found.get("machine-id", "")


def is_sealed(console: bytes, build_id: str) -> bool:
    """Whether a machine's console reports that it was sealed for this build; for a takeover from a dead worker."""
    return any(line.strip() == f"{_MARKER} {build_id}".encode() for line in console.splitlines())


def find_secrets(guest: Guest, values: Iterable[str], control: Control) -> list[str]:
    """Files on the machine's own file systems that contain one of these values in any form; at most 100.

    Reads all files: minutes for a large disk. Compressed files are searched later, on this host.
    """
    found: list[str] = []
    for patterns in _batches(forms(values)):
        try:
            said = guest.run(_FIND, control=control, environment={"imageflow_patterns": patterns})
        except CommandFailed as error:
            raise CommandFailed(f"can't search the machine for secrets: {error.message}") from None
        found += said.splitlines()
    return sorted(set(found))[:100]


def _batches(needles: Iterable[bytes]) -> Iterator[str]:
    """The needles, a line each, in texts that fit into a variable."""
    batch: list[str] = []
    size = 0
    for needle in needles:
        if batch and size + len(needle) + 1 > _VARIABLE:
            yield "\n".join(batch)
            batch, size = [], 0
        batch.append(needle.decode())
        size += len(needle) + 1
    if batch:
        yield "\n".join(batch)
