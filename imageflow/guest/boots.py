"""Which boot of its system a machine is in, and its reboot."""

from __future__ import annotations

import shlex

from imageflow.guest import Guest
from imageflow.host.control import Control

_ID = "cat /proc/sys/kernel/random/boot_id 2>/dev/null || :"
# Only in this boot: the connection may have been made again after the machine rebooted by itself.
_REBOOT = f"""
[ "$({_ID})" = "$boot" ] || exit 0
sync
(sleep 1; systemctl reboot || reboot || reboot -f) </dev/null >/dev/null 2>&1 &
"""
_ENDING = f"""
[ "$({_ID})" = "$boot" ] || exit 0
case $(systemctl is-system-running 2>/dev/null) in stopping) exit 0 ;; esac
exit 1
"""


def boot_id(guest: Guest, control: Control) -> str:
    """An id that every boot of the machine has anew; '' where the kernel has none."""
    return guest.run(_ID, control=control).strip()


def reboot(guest: Guest, boot: str, control: Control) -> None:
    """Reboot the machine if it is still in this boot; returns before it goes down."""
    guest.run(f"boot={shlex.quote(boot)}\n{_REBOOT}", control=control)


def ends(guest: Guest, boot: str, control: Control) -> bool:
    """Whether this boot is over or about to end. Raises Unavailable when the machine does not answer."""
    return guest.run(f"boot={shlex.quote(boot)}\n({_ENDING}) && echo yes || :", control=control).strip() == "yes"
