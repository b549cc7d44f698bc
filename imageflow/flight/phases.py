"""What installers and boots print on a serial console: which phase that is, and how far along."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """One thing that a machine says of itself."""

    pattern: re.Pattern[str]
    name: str  # may refer to groups of the pattern: '\\1'
    fraction: float  # 0 … 1, where it usually is


def _phase(pattern: str, name: str, fraction: float) -> Phase:
    return Phase(re.compile(pattern), name, fraction)


BOOTING = (
    _phase(r"(ISOLINUX|SYSLINUX|GNU GRUB|Welcome to GRUB|GRUB loading)", "boot loader", 0.01),
    _phase(r"Linux version \d|Booting the kernel|Decompressing Linux|Loading initial ramdisk", "kernel", 0.03),
    _phase(r"Run /s?bin/init|Run /init as init|systemd\[1\]: .*running in system mode", "first process", 0.05),
)
INSTALLERS = (
    # Debian's installer: titles of its steps, in either frontend
    _phase(r"(Loading additional components|Load installer components|Retrieving .*-modules)", "load components", 0.08),
    _phase(r"(Configuring the network|Detecting link on|Network autoconfiguration)", "network", 0.12),
    _phase(r"(Starting up the partitioner|Partitions formatting|Partition disks|Detecting disks)", "partition", 0.2),
    _phase(r"Installing the base system|Retrieving .* \.\.\.|Unpacking the base system", "base system", 0.35),
    _phase(r"(Select and install software|Running tasksel|Installing software)", "software", 0.6),
    _phase(r"(Installing GRUB boot loader|Install the GRUB|Installing the boot loader)", "boot loader on disk", 0.85),
    _phase(r"(Finishing the installation|Running preseed|Preseeding command)", "finish", 0.93),
    _phase(r"(Requesting system (poweroff|reboot)|The system is going down|reboot: Power down)", "power off", 0.99),
    # Anaconda
    _phase(r"anaconda \d|Starting installer|Starting automated install", "Anaconda starts", 0.08),
    _phase(r"Setting up the installation environment", "prepare", 0.15),
    _phase(r"(Configuring storage|Creating (xfs|ext4|disklabel|lvmvg|swap|efi) on)", "partition", 0.2),
    _phase(r"(Downloading packages|Preparing transaction)", "packages are fetched", 0.3),
    _phase(r"Installing ([\w.+-]+)\.\w+ \((\d+)/(\d+)\)", r"install \1 (\2 of \3)", 0.5),
    _phase(r"(Performing post-installation setup|Running post-installation scripts)", "post-installation", 0.9),
    _phase(r"Installing boot loader", "boot loader on disk", 0.85),
    # subiquity
    _phase(r"start: subiquity/([\w/]+)", r"\1", 0.3),
    _phase(r"curtin command (\w+)|cmd-(partitioning|extract|curthooks)", r"curtin \1", 0.5),
    # AutoYaST
    _phase(r"(Performing Installation|Installing Packages\.\.\.)", "packages", 0.5),
)
SYSTEMS = (
    _phase(r"(Started|Starting|Finished) .*(Initial cloud-init|cloud-init)", "cloud-init", 0.6),
    _phase(r"Reached target .*(Network|network)", "network", 0.7),
    _phase(r"(Started|Starting) .*(OpenBSD Secure Shell|OpenSSH|ssh)", "SSH server", 0.85),
    _phase(r"^\S+ login:", "login prompt", 0.95),
)
