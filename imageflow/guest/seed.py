"""The data for a machine's first boot that lets the build log in: for cloud-init, or for systemd alone."""

from __future__ import annotations

import json
from typing import Any

from imageflow.compute import Seed
from imageflow.guest import way_in_server
from imageflow.guest.keys import Keys


def make(
    keys: Keys, *, instance_id: str, hostname: str = "imageflow", user: str = "root", server: int | None = None
) -> Seed:
    """The seed of a machine: `user` gets the build's key (and sudo), the SSH server gets its host key.

    cloud-init (any datasource with user-data) makes no account of its own, updates nothing, and keeps the
    host name. A guest with systemd 252 or later and without cloud-init takes the same from credentials; an
    account other than root must exist already and be allowed to use sudo.
    `server`: a port for an SSH server of our own (see way_in_server), as that of the image lets no build in.
    """
    return Seed(
        user_data=_user_data(keys, user, server),
        instance_id=instance_id,
        hostname=hostname,
        credentials=_credentials(keys, user, server),
        public_key=keys.public,
    )


def _user_data(keys: Keys, user: str, server: int | None) -> str:
    account: dict[str, Any] = {"name": user, "ssh_authorized_keys": [keys.public]}
    if user != "root":
        account |= {"sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/sh", "lock_passwd": True}
    data = {
        "users": [account],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": False,  # with ssh_keys, our host key is the only one: no time is lost making others
        "ssh_keys": {"ed25519_private": keys.host_private.read_text(), "ed25519_public": keys.host_public},
        "ssh": {"emit_keys_to_console": False},
        "no_ssh_fingerprints": True,
        "preserve_hostname": True,
        "manage_etc_hosts": False,
        "package_update": False,
        "package_upgrade": False,
        "apt": {"preserve_sources_list": True},
        "grub_dpkg": {"enabled": False},
        "growpart": {"mode": "auto", "devices": ["/"], "ignore_growroot_disabled": False},
        "resize_rootfs": True,
    }
    if server is not None:
        data["bootcmd"] = [["sh", "-c", way_in_server.script(keys, server)]]
    return "#cloud-config\n" + json.dumps(data, indent=1) + "\n"  # JSON is YAML


def _credentials(keys: Keys, user: str, server: int | None) -> dict[str, str]:
    """systemd-tmpfiles writes the files before sshd starts; `~` says that the content is base64."""
    import base64

    def line(kind: str, path: str, mode: str, owner: str, text: str = "") -> str:
        content = base64.b64encode(text.encode()).decode() if text else "-"
        return f"{kind} {path} {mode} {owner} {owner} - {content}\n"

    home = "/root" if user == "root" else f"/home/{user}"
    lines = [
        line("d", f"{home}/.ssh", "0700", user),
        line("f+~", f"{home}/.ssh/authorized_keys", "0600", user, keys.public + "\n"),
        line("f+~", "/etc/ssh/ssh_host_ed25519_key", "0600", "root", keys.host_private.read_text()),
        line("f+~", "/etc/ssh/ssh_host_ed25519_key.pub", "0644", "root", keys.host_public + "\n"),
    ]
    if server is not None:
        lines.append(line("f+~", "/etc/ssh/sshd_config", "0644", "root", way_in_server.plain_config(server)))
    credentials = {"tmpfiles.extra": "".join(lines)}
    if user == "root":
        credentials["ssh.authorized_keys.root"] = keys.public + "\n"
    return credentials
