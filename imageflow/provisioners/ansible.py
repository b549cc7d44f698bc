"""A playbook, run by ansible-core on this host with the build's own key."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imageflow.errors import Refused
from imageflow.host import environment, process
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import short

_MACHINE = "machine"  # its name in the inventory; plays say `hosts: all`
_VARIABLES = "IMAGEFLOW_ANSIBLE_VARIABLES"
# Variables may be secrets: ansible takes them from its environment and removes them there before it starts a process.
_PROGRAM = f"""
import os, sys
sys.argv = ["ansible-playbook", *sys.argv[1:], "--extra-vars", os.environ.pop("{_VARIABLES}")]
from ansible.cli.playbook import main
main()
"""


class Ansible:
    """`- ansible: {playbook: site.yml, with: [roles, files], variables: {port: 80}, tags: []}`.

    Ansible sees the playbook and what is declared under `with`, nothing else and no configuration of this host.
    """

    def title(self, value: Json) -> str:
        return short(f"ansible {value['playbook']}")

    def sources(self, value: Json) -> Sequence[str]:
        return [str(value["playbook"]), *map(str, value.get("with") or ())]

    def check(self, value: Json, folder: Path) -> None:
        if importlib.util.find_spec("ansible") is None:
            raise Refused("ansible is not installed on this host", hint="pip install 'imageflow[ansible]'")

    def apply(self, value: Json, context: Context) -> None:
        self.check(value, context.folder)
        python = context.guest.facts.python
        if python is None:
            raise Refused("ansible needs Python in the machine", hint="add '- packages: [python3]' before this entry")
        for source in self.sources(value):
            sources.copy(source, _inside(context.work / "project", source), context)
        inventory = context.work / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": {_MACHINE: _host(context, python)}}}))
        variables = json.dumps(resolved(value.get("variables") or {}, context.secret))
        command = [sys.executable, "-Iu", "-c", _PROGRAM, "--inventory", str(inventory)]
        if value.get("tags"):
            command += ["--tags", ",".join(value["tags"])]
        process.run(
            [*command, str(value["playbook"])],
            control=context.control,
            log=context.log,
            env=_environment(context) | {_VARIABLES: variables},
            cwd=context.work / "project",
            isolate=os.geteuid() == 0,  # ssh's shared connection leaves the session, but not the namespace
            name=self.title(value),
        )


def _inside(project: Path, source: str) -> Path:
    """A source's path in the project, the same as in the recipe's folder."""
    to = project / source
    if not to.resolve().is_relative_to(project.resolve()):
        raise Refused(f"{source} is outside the recipe's folder", hint="copy it into that folder")
    return to


def _host(context: Context, python: str) -> dict[str, Any]:
    access = context.access
    options = [
        f"UserKnownHostsFile={access.known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PasswordAuthentication=no",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=6",
    ]
    return {
        "ansible_host": access.host,
        "ansible_port": access.port,
        "ansible_user": access.user,
        "ansible_become": access.user != "root",
        "ansible_ssh_private_key_file": str(access.key),
        "ansible_ssh_common_args": "-F none " + " ".join(f"-o {shlex.quote(option)}" for option in options),
        "ansible_python_interpreter": python,
    }


def _environment(context: Context) -> dict[str, str]:
    """An environment without this host's configuration, with its own home folder."""
    home = context.work / "home"
    home.mkdir(exist_ok=True)
    (home / "ansible.cfg").touch()
    # One connection for all tasks. Its socket's path must be short, so it is relative to the playbook's working directory.
    shared = "-C -o ControlMaster=auto -o ControlPersist=20s -o ControlPath=../%C"
    settings = {
        "HOME": home,
        "ANSIBLE_HOME": home / ".ansible",
        "ANSIBLE_CONFIG": home / "ansible.cfg",
        "ANSIBLE_LOCAL_TEMP": home / "tmp",
        "ANSIBLE_REMOTE_TEMP": "/tmp/.imageflow-ansible",  # in the machine; sealing empties it
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_PIPELINING": "True",
        "ANSIBLE_SSH_ARGS": shared,
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_TIMEOUT": "60",
    }
    return {"LC_ALL": "C.UTF-8", **environment.passed(), **{name: str(value) for name, value in settings.items()}}
