"""Maps output of installers and boots on a serial console to phases and their progress."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PERCENT = re.compile(r"(\d{1,3})%\D*$")


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase that console output announces.

    If the output tells the phase's progress, by a percentage at the end of the line or by groups `at` and `of`
    in the pattern, the fraction is between `start` and `end`; otherwise it is `start`.
    """

    pattern: re.Pattern[str]
    name: str  # may refer to groups of the pattern: '\\1'
    start: float  # 0 … 1, usual progress of the whole at its start
    end: float

    def seen(self, line: str) -> tuple[str, float] | None:
        """(its name, the fraction) if this line belongs to this phase."""
        if not (match := self.pattern.search(line)):
            return None
        groups = match.groupdict()
        within = 0.0
        if groups.get("of"):
            within = int(groups["at"]) / max(1, int(groups["of"]))
        elif percent := _PERCENT.search(line):
            within = int(percent[1]) / 100
        return match.expand(self.name).strip(), self.start + (self.end - self.start) * min(1.0, within)


def find(phases: Sequence[Phase], line: str) -> tuple[str, float] | None:
    """(name, fraction) of the phase that a line belongs to; the last matching one in the table."""
    for phase in reversed(phases):
        if seen := phase.seen(line):
            return seen
    return None


def _phase(pattern: str, name: str, start: float, end: float = 0.0) -> Phase:
    return Phase(re.compile(pattern), name, start, max(start, end))


BOOTING = (
    _phase(
        r"(ISOLINUX|SYSLINUX) \d|GNU GRUB +version|Welcome to GRUB|GRUB loading|Loading /\S+\.\.\. ?ok",
        "boot loader",
        0.01,
    ),
    _phase(r"Linux version \d|Booting the kernel|Decompressing Linux|Loading initial ramdisk", "kernel", 0.03),
    _phase(r"Run /(s?bin/)?init as init|systemd\[1\]: .*running in system mode", "first process", 0.05),
)
INSTALLERS = (
    # Debian's installer: the titles of its progress bars, with either front end
    _phase(r"Starting system log daemon: syslogd, klogd", "installer starts", 0.06),
    _phase(
        r"Detecting (hardware to find|disks and all other)|Scanning (CD-ROM|installation media)", "find media", 0.07
    ),
    _phase(
        r"(Loading additional components|Load installer components|Retrieving \S+-(udeb|modules))",
        "load components",
        0.08,
        0.11,
    ),
    _phase(
        r"(Detecting network hardware|Configuring the network|Detecting link on|Attempting IPv6)", "network", 0.12, 0.15
    ),
    _phase(r"(Setting up users and passwords|Setting up the clock|Getting the time)", "accounts and clock", 0.16, 0.18),
    _phase(
        r"(Starting up the partitioner|Partitions formatting|Partition disks|Detecting file systems)",
        "partition",
        0.19,
        0.25,
    ),
    _phase(
        r"(Installing the base system|Unpacking the base system|Installing extra packages)", "base system", 0.25, 0.6
    ),
    _phase(r"(Configuring apt|Scanning the mirror)", "configure apt", 0.6, 0.62),
    _phase(r"(Select and install software|Running tasksel|Installing software)", "software", 0.62, 0.85),
    _phase(
        r"(Installing GRUB boot loader|Install the GRUB|Installing the systemd-boot)", "boot loader on disk", 0.87, 0.92
    ),
    _phase(r"(Finishing the installation|Running preseed|Preseeding command)", "finish", 0.92, 0.98),
    # Anaconda
    _phase(r"anaconda \d|Starting installer|[Ss]tarting automated install", "Anaconda starts", 0.08),
    _phase(r"Setting up the installation environment|Checking storage configuration", "prepare", 0.15),
    _phase(
        r"Configuring storage|Creating (xfs|ext4|disklabel|lvmvg|lvmlv|swap|biosboot|efi|btrfs) on", "partition", 0.2
    ),
    _phase(
        r"Downloading packages|Downloading \d+ RPMs|Preparing transaction from installation source",
        "fetch packages",
        0.28,
        0.35,
    ),
    _phase(r"Installing (\S+?)(\.\w+)? \((?P<at>\d+)/(?P<of>\d+)\)", r"install \1 (\g<at> of \g<of>)", 0.35, 0.75),
    _phase(
        r"(Configuring|Verifying) (\S+?)(\.\w+)? \((?P<at>\d+)/(?P<of>\d+)\)",
        r"configure (\g<at> of \g<of>)",
        0.75,
        0.82,
    ),
    _phase(r"Installing boot loader", "boot loader on disk", 0.83),
    _phase(r"Generating initramfs", "initramfs", 0.86),
    _phase(
        r"Performing post-installation setup|Running post-installation scripts|Storing configuration files",
        "post-installation",
        0.9,
    ),
    _phase(r"Installation complete\b", "installed", 0.97),
    # subiquity and curtin
    _phase(r"start: subiquity/(\w+)", r"\1", 0.1),
    _phase(r"subiquity/Install/install/(\w+)|curtin command (\w+)", r"install \1\2", 0.3),
    _phase(r"cmd-install/stage-partitioning|executing curtin install partitioning", "partition", 0.25),
    _phase(r"cmd-install/stage-extract|executing curtin install extract", "base system", 0.35),
    _phase(r"cmd-install/stage-curthooks|executing curtin install curthooks", "configure", 0.65),
    _phase(r"subiquity/Install/install/postinstall|subiquity/Late", "post-installation", 0.88),
    # AutoYaST
    _phase(r"Starting YaST|YaST got signal|Initializing the Installation Environment", "YaST starts", 0.08),
    _phase(r"Preparing disks|Creating Partitions", "partition", 0.2),
    _phase(r"Performing Installation|Installing Packages\.\.\.", "packages", 0.3, 0.85),
    _phase(r"Saving Configuration|Installing Boot Manager|Finishing (Basic )?Installation", "finish", 0.88, 0.97),
    # all of them
    _phase(
        r"Requesting system (poweroff|reboot|halt)|The system is going down|reboot: (Power down|Restarting system)",
        "power off",
        0.99,
    ),
)
SYSTEMS = (
    _phase(r"systemd\[1\]: .*running in system mode", "systemd", 0.2),
    _phase(r"Begin: Running /scripts/|dracut-", "initial RAM disk", 0.1),
    _phase(r"Reached target \S*(Local File Systems|local-fs)", "file systems", 0.4),
    _phase(r"(Started|Starting|Finished) .*cloud-init|Cloud-init v\. \S+ running", "cloud-init", 0.55),
    _phase(r"Reached target \S*(Network|network)", "network", 0.7),
    _phase(r"(Started|Starting) \S*.*(OpenBSD Secure Shell|OpenSSH|sshd?\.service)", "SSH server", 0.85),
    _phase(r"^\S+ login: ?$", "login prompt", 0.95),
)
