"""The provisioners users and services in a real Debian system; what they did is looked at from inside, without them."""

from __future__ import annotations

import pytest

from imageflow.errors import CommandFailed
from tests.drivers.provisioners.provisioned_guest import Site

HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPq7+/aXyBvOmpbXXT2ZcIqfNnF6mQmYQGWgPGdMHXf9 ada's"


def test_users_with_everything_and_again(any_site: Site) -> None:
    site = any_site
    value = [
        {
            "name": "ada",
            "uid": 1234,
            "groups": ["adm", "newgroup"],
            "shell": "/bin/bash",
            "home": "/srv/ada",
            "password": {"secret": "ada"},
            "sudo": True,
            "authorized_keys": [KEY],
        },
        {"name": "games", "shell": "/bin/sh", "groups": [], "sudo": False, "authorized_keys": [], "password": HASH},
    ]
    for _ in range(2):
        site.apply("users", value)
    assert site.sh("getent passwd ada; id -nG ada | tr ' ' '\\n' | sort | tr '\\n' ' '") == (
        "ada:x:1234:1234::/srv/ada:/bin/bash\nada adm newgroup "
    )
    assert site.sh(
        "cat /srv/ada/.ssh/authorized_keys; stat -c '%a %U:%G' /srv/ada/.ssh /srv/ada/.ssh/authorized_keys"
    ) == (f"{KEY}\n700 ada:ada\n600 ada:ada\n")
    assert site.sh("getent passwd games | cut -d: -f7; getent shadow games | cut -d: -f2") == f"/bin/sh\n{HASH}\n"
    assert site.sh("su ada -c 'sudo -n id -u'; visudo -c >/dev/null && echo ok") == "0\nok\n"
    check = "import crypt; h=open('/etc/shadow').read().split('ada:')[1].split(':')[0]; print(crypt.crypt('open-sesame-42', h) == h)"
    assert site.guest.command("python3", "-W", "ignore", "-c", check) == "True\n"
    assert site.sh("grep -rl open-sesame-42 /etc /run /var/log /tmp /root /srv") == ""


def test_services_are_enabled_for_the_next_boot(site: Site) -> None:
    unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    for name in ("one", "two"):
        site.connection.put(unit.encode(), f"/etc/systemd/system/{name}.service", control=site.control)
    site.sh("systemctl enable two")
    for _ in range(2):
        site.apply("services", {"enable": ["one"], "disable": ["two.service"]})
        assert site.sh("systemctl is-enabled one two") == "enabled\ndisabled\n"
    with pytest.raises(CommandFailed, match=r"missing\.service does not exist"):
        site.apply("services", {"enable": ["missing"]})
