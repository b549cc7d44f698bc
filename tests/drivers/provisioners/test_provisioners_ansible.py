"""The provisioner ansible, a real one, against a real Debian system over SSH."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import pytest

from imageflow.errors import Cancelled, CommandFailed, Refused
from imageflow.guest import keys
from imageflow.host.buildlog import MASK, BuildLog
from tests.drivers.provisioners.provisioned_guest import Site

PLAY = """
- hosts: all
  gather_facts: {facts}
  tasks:
    - name: read what was declared
      ansible.builtin.copy:
        content: "{{{{ lookup('file', 'files/a.txt') }}}} {{{{ port }}}} {{{{ token }}}}"
        dest: /opt/ansible
        mode: "0600"
    - name: tell it
      ansible.builtin.debug:
        msg: "token is {{{{ token }}}}"
    - ansible.builtin.command: touch /opt/tagged
      tags: [never, extra]
"""


def test_ansible_over_the_builds_key(any_site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = any_site
    hostile = tmp_path / "hostile.cfg"
    hostile.write_text("[defaults]\nhost_key_checking=False\nremote_user=nobody\n")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(hostile))
    monkeypatch.setenv("ANSIBLE_REMOTE_USER", "nobody")
    site.write("site.yml", PLAY.format(facts="true"))
    site.write("files/a.txt", "declared")
    value = {
        "playbook": "site.yml",
        "with": ["files"],
        "variables": {"port": 80, "token": {"secret": "token"}},
        "tags": ["all", "extra"],
    }
    site.apply("ansible", value)
    assert site.sh("cat /opt/ansible; stat -c ' %a %U' /opt/ansible; ls /opt/tagged") == (
        "declared 80 s3cret-token 600 root\n/opt/tagged\n"
    )
    assert f"token is {MASK}" in site.said()
    assert "changed=2" in site.said()
    assert not _ssh_clients(tmp_path)


def _ssh_clients(home: Path) -> list[str]:
    """Those of a build whose files are there; others run beside this test."""
    found = subprocess.run(["pgrep", "-f", "ssh: .*-imageflow|ControlPath=../"], capture_output=True, text=True)
    mine = []
    for pid in found.stdout.split():
        with contextlib.suppress(OSError):
            if f"HOME={home}/" in Path(f"/proc/{pid}/environ").read_text(errors="replace"):
                mine.append(pid)
    return mine


def test_ansible_sees_only_what_is_declared(site: Site) -> None:
    site.write("site.yml", PLAY.format(facts="false"))
    site.write("files/a.txt", "not declared")
    with pytest.raises(CommandFailed, match=r"ansible site\.yml ended with exit code"):
        site.apply("ansible", {"playbook": "site.yml", "variables": {"port": 1, "token": "x"}})
    assert "files/a.txt" in site.said()


def test_ansible_needs_python_in_the_machine_and_the_right_host_key(site: Site, tmp_path: Path) -> None:
    site.write("site.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.ping: {}}]\n")
    other = keys.make(tmp_path / "other")
    site.guest.keys = keys.Keys(site.guest.keys.private, site.guest.keys.public, other.host_private, other.host_public)
    with pytest.raises(CommandFailed):
        site.apply("ansible", {"playbook": "site.yml"})
    assert "Host key verification failed" in site.said()
    site.sh("rm /usr/bin/python3")
    site.connection.__dict__.pop("facts")
    with pytest.raises(Refused, match="ansible needs Python") as caught:
        site.apply("ansible", {"playbook": "site.yml"})
    assert "packages: [python3]" in caught.value.hint


def test_a_stopped_playbook_leaves_nothing_running(site: Site, tmp_path: Path) -> None:
    site.write("site.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.command: sleep 200}]\n")

    class Stopping(BuildLog):
        def __call__(self, text: str) -> None:
            super().__call__(text)
            if text.startswith("TASK"):
                site.control.stop(Cancelled("stop"))

    site.log = Stopping(site.log.path)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        site.apply("ansible", {"playbook": "site.yml"})
    assert time.monotonic() - started < 20
    assert not _ssh_clients(tmp_path)
