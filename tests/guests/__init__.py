"""Real guests for tests, made by code from Debian packages and cached outside the checkout.

    tiny.disk() -> Path                  a bootable qcow2 with SSH (dropbear), up in about three seconds under TCG
    tiny.disk(fault="panic") -> Path     one that never comes up: see tiny.FAULTS
    installer.iso() -> Path              a tiny installer, laid out like Debian's, that installs the tiny disk
    installer.iso("dialog") -> Path      one that gets stuck: see installer.FAULTS
    debian_installer.iso() -> Path       the genuine Debian installer (preseed and kickstart), two minutes under TCG
    ANSWERS                              folder with preseed.cfg and ks.cfg for both installers

Each is made at its first use, once for all processes, in `$IMAGEFLOW_TEST_CACHE` (by default
~/.cache/imageflow-tests). The name contains a digest of the code and of the versions of the packages that
it is made from. Never write to them: start from an overlay or a copy. When a part is missing, the test is
skipped, or fails under CI=true.

The tiny disk boots with BIOS (syslinux) and UEFI (GRUB) from virtio-blk, has a writable ext4 root, and reads
a NoCloud volume labelled cidata or OpenStack's config drive at the first boot of an instance: SSH key for root,
host key, host name. With a config drive whose user-data has no key, the server's key pair lets root in. It
prints `GUEST-READY` on ttyS0, and obeys the ACPI power button. /etc/rc.local, if it can be run, is started at
each boot.
"""

from __future__ import annotations

from pathlib import Path

ANSWERS = Path(__file__).parent / "answers"
