"""Paths that do not count as an image's content, as they differ between builds of one recipe, with the reasons."""

from __future__ import annotations

import fnmatch
import re

# The folder itself counts, its content does not and is not even read.
TREES: dict[str, str] = {
    "/proc": "the kernel's",
    "/sys": "the kernel's",
    "/dev": "the kernel's, and of the machine that it runs on",
    "/run": "of the running machine",
    "/tmp": "temporary",
    "/var/tmp": "temporary",
    "/var/log": "said while it was built: times",
    "/var/cache": "can be made again",
    "/var/backups": "earlier states, with times",
    "/var/lib/cloud": "what cloud-init remembers of the machine",
    "/var/lib/apt/lists": "downloaded again, with every change of the archive",
    "/var/lib/dpkg/info": "the list of packages stands for it",
    "/var/lib/rpm": "the list of packages stands for it; a database: other bytes at each installation",
    "/usr/lib/sysimage/rpm": "as /var/lib/rpm",
    "/lib/apk/db": "as /var/lib/rpm",
    "/usr/lib/apk/db": "as /var/lib/rpm",
    "/var/lib/dnf": "histories, with times",
    "/usr/lib/sysimage/libdnf5": "histories, with times",
    "/var/lib/yum": "histories, with times",
    "/var/lib/zypp": "histories, and an identity",
    "/var/lib/dhcp": "leases",
    "/var/lib/dhclient": "leases",
    "/var/lib/dhcpcd": "leases, and an identity",
    "/var/lib/NetworkManager": "leases, times, an identity",
    "/var/lib/PackageKit": "histories, with times",
    "/etc/lvm/archive": "identities of the machine's disks",
    "/etc/lvm/backup": "identities of the machine's disks",
}
# These and everything below them; `*` matches anything, `/` too.
PATHS: dict[str, str] = {
    "/etc/machine-id": "of one machine",
    "/var/lib/dbus/machine-id": "of one machine",
    "/etc/hostid": "of one machine",
    "/etc/nvme/host*id": "of one machine",
    "/etc/nvme/hostnqn": "of one machine",
    "/etc/iscsi/initiatorname.iscsi": "of one machine: random when the package is installed",
    "/etc/ssl/private/ssl-cert-snakeoil.key": "of one machine: random when the package is installed",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem": "as its key",
    "/etc/ssh/ssh_host_*": "of one machine",
    "/etc/dropbear/dropbear_*_host_key": "of one machine",
    "*/random-seed": "of one machine",
    "/var/lib/seedrng/*": "of one machine",
    "/var/lib/systemd/credential.secret": "of one machine",
    "/etc/.updated": "a time",
    "/var/.updated": "a time",
    "/etc/adjtime": "a time",
    "/etc/mtab": "of the running machine, where it is no link",
    "/etc/.pwd.lock": "made when an account is changed",
    "/etc/passwd-": "the state before the last change",
    "/etc/shadow-": "the state before the last change",
    "/etc/group-": "the state before the last change",
    "/etc/gshadow-": "the state before the last change",
    "/etc/subuid-": "the state before the last change",
    "/etc/subgid-": "the state before the last change",
    "/var/lib/dpkg/status": "the list of packages stands for it; their order is that of the installation",
    "/var/lib/dpkg/*-old": "the state before the last change",
    "/var/lib/dpkg/available": "what dselect has seen",
    "/var/lib/dpkg/lock*": "made at the first use",
    "/var/lib/apt/periodic/*": "times",
    "/var/lib/apt/extended_states": "the order is that of the installation",
    "/var/lib/apt/daily_lock": "made at the first use",
    "/var/lib/logrotate*": "times",
    "/var/lib/systemd/timers/*": "times",
    "/var/lib/systemd/timesync/clock": "a time",
    "/var/lib/systemd/catalog/database": "made of the packages' catalogues, by whichever systemd ran last",
    "/var/lib/private/systemd/*": "of the running machine",
    "/var/lib/chrony/*": "of the machine's clock",
    "/var/lib/ntp*/*.drift": "of the machine's clock",
    "/var/lib/plymouth/boot-duration": "a time",
    "/var/lib/mlocate/*": "made of the tree",
    "/var/lib/plocate/*": "made of the tree",
    "/var/lib/ubuntu-release-upgrader/*": "times",
    "/var/lib/update-notifier/*": "times",
    "/var/lib/command-not-found/*": "made of the archive's lists",
    "/usr/share/fonts/*/.uuid": "random",
    "/usr/lib/fontconfig/cache/*": "made of the fonts, with times",
    "*/__pycache__": "made of the sources beside it, with their times",
    "/boot/initrd*": "made of the tree, packed with times and in any order",
    "/boot/initramfs*": "made of the tree, packed with times and in any order",
    "/boot/*/initrd": "made of the tree, packed with times and in any order",
    "/boot/grub*/grubenv": "what GRUB remembers",
    "/boot/grub*/*/core.*": "made of GRUB's modules and load.cfg, with the file system's UUID",
    "/boot/grub*/*/kernel.img": "may be patched with a UUID where GRUB is installed",
    "/etc/dib-manifests": "how diskimage-builder was called: folders of the build",
    "/etc/dib-builddate.txt": "a time",
    "/lib/diskimage-builder": "diskimage-builder's own, while it builds",
    "/usr/lib/diskimage-builder": "diskimage-builder's own, while it builds",
    "*/lost+found": "the file system's",
    "/swapfile": "no file's content",
    "/swap.img": "no file's content",
}
# Read without the differing parts: a sed rule for each of these files.
_UUIDS = "s/UUID=[^ \t\"',]*/UUID=/g;s/[0-9A-Fa-f]\\{8\\}\\(-[0-9A-Fa-f]\\{4\\}\\)\\{3\\}-[0-9A-Fa-f]\\{12\\}/UUID/g"
_BOOT = f"{_UUIDS};s/[0-9a-f]\\{{32\\}}/MACHINE-ID/g"
NORMAL: dict[str, str] = {
    # file systems have new UUIDs at each mkfs
    "/etc/fstab": _UUIDS,
    "/etc/crypttab": _UUIDS,
    "/etc/default/grub": _UUIDS,
    "/etc/initramfs-tools/conf.d/resume": _UUIDS,
    "/etc/kernel/cmdline": _BOOT,
    "/boot/grub*/grub.cfg": _BOOT,
    "/boot/grub*/*/load.cfg": _BOOT,
    "/boot/efi/EFI/*/grub.cfg": _BOOT,
    "/boot/loader/entries/*.conf": _BOOT,
    "/boot/extlinux/extlinux.conf": _BOOT,
    # the day of each password's last change
    "/etc/shadow": "s/^\\([^:]*:[^:]*\\):[^:]*:/\\1::/",
}

_LEFT_OUT = re.compile(
    "|".join(
        [f"{re.escape(tree)}/.*" for tree in TREES] + [f"{fnmatch.translate(path)[:-2]}(?:/.*)?" for path in PATHS]
    ).encode(),
    re.DOTALL,
)


def leaves_out(path: bytes) -> bool:
    """Whether an absolute path in an image does not count."""
    return _LEFT_OUT.fullmatch(path) is not None
