"""Machines whose first process is a real systemd: cloud-init that does and does not run in this boot."""

from __future__ import annotations

import time

from imageflow.guest import connect
from imageflow.host.control import Control
from tests.drivers.booted_guest import BootedGuest, booted_guest
from tests.drivers.sshguest import silent

_INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq --no-install-recommends install cloud-init"
_SEED = """
mkdir -p /etc/cloud/cloud.cfg.d /var/lib/cloud/seed/nocloud
echo 'datasource_list: [NoCloud]' > /etc/cloud/cloud.cfg.d/99-seed.cfg
echo 'instance-id: one' > /var/lib/cloud/seed/nocloud/meta-data
printf '#cloud-config\\nruncmd: [[sleep, "4"]]\\nssh_deletekeys: false\\n' > /var/lib/cloud/seed/nocloud/user-data
"""


def _waited(guest: BootedGuest, control: Control) -> list[str]:
    log: list[str] = []
    connect.await_ssh(guest.access, control=control, log=log.append, timeout=40, dead=lambda: None).close()
    return log


def test_only_a_cloud_init_that_runs_in_this_boot_is_waited_for() -> None:
    """Debian's own: installed after the boot, its `status --wait` never ends."""
    control = Control(time.monotonic() + 300)
    with booted_guest() as guest:
        with connect.connect(guest.access, control=control, log=silent) as made:
            made.run(_SEED + _INSTALL, control=control)
            assert made.run("timeout 5 cloud-init status --wait || echo $?", control=control).endswith("124")
        assert _waited(guest, control) == []

        before = guest.command("cat", "/proc/sys/kernel/random/boot_id")
        guest.command("systemctl", "reboot")
        while guest.command("cat", "/proc/sys/kernel/random/boot_id") in ("", before):
            control.wait(0.2)
        guest.await_port()
        assert _waited(guest, control)[:1] == ["waiting for cloud-init"]
        assert _waited(guest, control) == [], "it is done, with errors or without"
        guest.command("rm", "-rf", "/run/cloud-init", "/var/lib/cloud")  # as after an installation
        assert _waited(guest, control) == []
