"""Each provisioner against a real Debian system over SSH; what it did is looked at from inside, without it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imageflow import provisioners
from imageflow.buildlog import MASK, BuildLog
from imageflow.control import Control
from imageflow.errors import Cancelled, CommandFailed, InputChanged, RecipeError, Refused
from imageflow.guest import keys
from imageflow.guest.connect import Connection, connect
from imageflow.provisioners import Context
from tests.drivers.sshguest import SshGuest, ssh_guest

SECRETS = {"token": "s3cret-token", "ada": "open-sesame-42"}


@dataclass
class Site:
    """A guest, and a recipe's folder."""

    guest: SshGuest
    connection: Connection
    folder: Path
    work: Path
    control: Control
    log: BuildLog
    progress: list[tuple[float, str]] = field(default_factory=list)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pins(self) -> dict[str, str]:
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {
            f"file:{path.relative_to(self.folder)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }

    def apply(self, kind: str, value: Any, pins: dict[str, str] | None = None) -> None:
        made = provisioners.find(kind)
        assert len(made.title(value)) < 60
        made.check(value, self.folder)
        with _folder(self.work) as work:
            context = Context(
                guest=self.connection,
                access=self.guest.access,
                folder=self.folder,
                pins=self.pins() if pins is None else pins,
                work=work,
                control=self.control,
                log=self.log,
                progress=lambda share, text: self.progress.append((share, text)),
                secret=SECRETS.__getitem__,
            )
            made.apply(value, context)

    def sh(self, script: str) -> str:
        """What a script inside prints, without SSH."""
        return self.guest.command("sh", "-c", script)

    def said(self) -> str:
        return self.log.path.read_text()


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _site(guest: SshGuest, folder: Path) -> Iterator[Site]:
    control = Control(time.monotonic() + 280, build_id="test-provisioners")
    log = BuildLog(folder / "log", SECRETS.values())
    (folder / "recipe").mkdir()
    (folder / "log").touch()
    with connect(guest.access, control=control, log=log) as connection:
        yield Site(guest, connection, folder / "recipe", folder / "work", control, log)
    assert guest.marked() == []
    assert not [value for value in SECRETS.values() if value in log.path.read_text()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ssh_guest() as guest, _site(guest, tmp_path) as made:
        yield made


@pytest.fixture(params=["root", "builder"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with ssh_guest(request.param) as guest, _site(guest, tmp_path) as made:
        yield made


def test_every_kind_is_there() -> None:
    assert provisioners.kinds() == sorted(
        ["ansible", "chef", "files", "packages", "pip", "puppet", "salt", "services", "shell", "users"]
    )


# -- packages ------------------------------------------------------------------------------------------------


def test_packages_are_installed_and_again_is_fine(site: Site) -> None:
    site.apply("packages", ["tree", "hello=2.10*"])
    assert site.sh("hello; tree --version | cut -c-4") == "Hello, world!\ntree\n"
    assert any(0.5 < share < 1 for share, _ in site.progress)
    assert "status:" not in site.said()
    assert "Setting up tree" in site.said()
    site.apply("packages", ["tree"])
    assert site.said().count("Reading package lists") >= 2
    assert len([line for line in site.said().splitlines() if "Get:" in line and "InRelease" in line]) <= 3


def test_a_package_that_is_not_there(site: Site) -> None:
    with pytest.raises(CommandFailed, match="packages no-such-package ended with exit code 100") as caught:
        site.apply("packages", ["no-such-package"])
    assert "Unable to locate package no-such-package" in caught.value.hint


def test_what_a_killed_install_left_half_done_is_finished(site: Site) -> None:
    site.apply("packages", ["hello"])
    site.sh("sed -i '/^Package: hello$/,/^$/s/^Status:.*/Status: install ok half-configured/' /var/lib/dpkg/status")
    assert "half-configured" in site.sh("dpkg -s hello | grep Status")
    site.apply("packages", ["tree"])
    assert "install ok installed" in site.sh("dpkg -s hello | grep Status")


def test_a_worker_that_is_stopped_in_the_middle_of_an_install(site: Site) -> None:
    """Then dpkg is killed wherever it is; the next worker gets to the same end."""

    class Stopping(BuildLog):
        def __call__(self, text: str) -> None:
            super().__call__(text)
            if text.startswith("Unpacking"):
                site.control.stop(Cancelled("stop"))

    first, site.log = site.log, Stopping(site.log.path, SECRETS.values())
    with pytest.raises(Cancelled):
        site.apply("packages", ["nginx-light"])
    assert site.sh("pgrep -x 'apt-get|dpkg'") == ""
    site.log, site.control = first, Control(time.monotonic() + 120)
    site.apply("packages", ["nginx-light"])
    assert site.sh("dpkg --audit; nginx -v 2>&1 | cut -c-14; dpkg -s nginx-light | grep ^Status") == (
        "nginx version:\nStatus: install ok installed\n"
    )


def test_a_lock_that_somebody_else_holds_is_waited_for(site: Site) -> None:
    holder = (
        "import fcntl,time,os\nf=open('/var/lib/apt/lists/lock','a');fcntl.lockf(f,fcntl.LOCK_EX)\n"
        "g=open('/var/lib/dpkg/lock-frontend','a');fcntl.lockf(g,fcntl.LOCK_EX)\nopen('/root/held','w')\ntime.sleep(4)"
    )
    inside = ["nsenter", f"--target={site.guest.pid}", "--mount", "--pid", f"--root=/proc/{site.guest.pid}/root"]
    with subprocess.Popen([*inside, "--wd=/", "python3", "-c", holder]) as held:
        while not site.sh("ls /root/held 2>/dev/null"):
            time.sleep(0.05)
        site.apply("packages", ["hello"])
        assert held.wait() == 0
    assert "waiting for apt" in site.said()
    assert site.sh("hello") == "Hello, world!\n"


def test_a_machine_without_a_package_manager(site: Site) -> None:
    site.sh("mv /usr/bin/apt-get /usr/bin/apt-gone")
    with pytest.raises(Refused, match="has none of apt-get, dnf, zypper, apk"):
        site.apply("packages", ["tree"])


# -- pip -----------------------------------------------------------------------------------------------------


def test_pip_is_brought_along_and_installs_for_the_system(site: Site) -> None:
    _make_wheel(site.folder / "wheels")
    wheel = next((site.folder / "wheels").iterdir())
    site.connection.put(wheel, f"/opt/{wheel.name}", control=site.control)
    site.sh(
        "mkdir -p /root/.config/pip; printf '[global]\\nno-index = true\\nfind-links = /opt\\n' > /root/.config/pip/pip.conf"
    )
    site.apply("pip", ["tinything==1.*"])
    assert site.sh("cd /; python3 -c 'import tinything; print(tinything.ANSWER)'") == "42\n"
    assert "Setting up python3-pip" in site.said()
    site.apply("pip", ["tinything"])
    assert "already satisfied" in site.said()


def _make_wheel(folder: Path) -> None:
    folder.mkdir()
    name = "tinything-1.0"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinything.py", "ANSWER = 42\n")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")


# -- files ---------------------------------------------------------------------------------------------------


def test_files_templates_modes_and_owners(any_site: Site) -> None:
    site = any_site
    site.write("site.conf", "é\n\n")
    site.write("page.j2", "{% for name in names %}{{ loop.index }}:{{ name | upper }} {% endfor %}{{ token }}\n")
    site.apply(
        "files",
        [
            {"source": "site.conf", "path": "/etc/new/site.conf", "mode": "0640", "owner": "daemon"},
            {"content": "text\n", "path": "/usr/local/bin/run", "mode": "0755", "owner": "root:adm"},
            {
                "source": "page.j2",
                "path": "/opt/page",
                "template": True,
                "variables": {"names": ["a", "b"], "token": {"secret": "token"}},
            },
        ],
    )
    look = "cd /; stat -c '%a %U:%G' etc/new/site.conf usr/local/bin/run opt/page; cat etc/new/site.conf opt/page"
    assert site.sh(look) == "640 daemon:daemon\n755 root:adm\n644 root:root\né\n\n1:A 2:B s3cret-token\n"


def test_a_file_that_changed_since_the_plan_is_not_used(site: Site) -> None:
    site.write("a", "one")
    pins = site.pins()
    site.write("a", "two")
    for template in (False, True):
        with pytest.raises(InputChanged, match="a is not what it was"):
            site.apply("files", [{"source": "a", "path": "/opt/a", "template": template}], pins)
    assert site.sh("ls /opt") == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{% if %}", "template bad.j2, line 2: Expected an expression"),
        ("{{ missing }}", "template bad.j2: 'missing' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "template bad.j2: access to attribute '__class__'"),
        ("{{ 1 / 0 }}", "template bad.j2: ZeroDivisionError"),
        ("{% include 'site.conf' %}", "template bad.j2: "),
    ],
)
def test_a_template_that_can_not_be_filled_in(site: Site, text: str, message: str) -> None:
    site.write("bad.j2", text)
    with pytest.raises(RecipeError) as caught:
        site.apply("files", [{"source": "bad.j2", "path": "/opt/a", "template": True}])
    assert str(caught.value).startswith(message)


# -- users and services ------------------------------------------------------------------------------------------

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


# -- shell ---------------------------------------------------------------------------------------------------------


def test_shell_stops_at_the_first_error_and_sees_its_environment(any_site: Site) -> None:
    site = any_site
    site.apply(
        "shell", {"run": 'echo "$A $TOKEN" > /opt/out\n', "environment": {"A": "ä b", "TOKEN": {"secret": "token"}}}
    )
    assert site.sh("cat /opt/out") == "ä b s3cret-token\n"
    with pytest.raises(CommandFailed, match="shell false ended with exit code 1"):
        site.apply("shell", {"run": "false\ntouch /opt/never"})
    with pytest.raises(CommandFailed):
        site.apply("shell", {"run": "echo $UNSET"})
    assert site.sh("ls /opt/never 2>/dev/null") == ""


def test_a_script_with_an_interpreter_and_one_from_a_file(any_site: Site) -> None:
    site = any_site
    site.write(
        "a.py",
        "#!/usr/bin/env python3\nimport os, sys\nopen('/opt/py', 'w').write(os.environ['TOKEN'] + str(sys.argv[1:]))\n",
    )
    site.apply("shell", {"source": "a.py", "environment": {"TOKEN": {"secret": "token"}}})
    assert site.sh("cat /opt/py") == "s3cret-token[]"
    site.apply("shell", {"run": "#! /bin/bash -u\n[[ $- == *u* ]] && echo bash > /opt/bash; false; exit 0"})
    assert site.sh("cat /opt/bash; ls -A /run/imageflow") == "bash\n"
    with pytest.raises(CommandFailed, match="exit code 127"):
        site.apply("shell", {"run": "#!/no/such/thing\n"})
    with pytest.raises(CommandFailed, match="exit code 9"):
        site.apply("shell", {"run": "#!/bin/sh\nexit 9\n"})


# -- ansible ---------------------------------------------------------------------------------------------------------

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
    assert not _ssh_clients()


def _ssh_clients() -> list[str]:
    return subprocess.run(
        ["pgrep", "-fa", "ssh: .*-imageflow|ControlPath=../"], capture_output=True, text=True
    ).stdout.split()


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


def test_a_stopped_playbook_leaves_nothing_running(site: Site) -> None:
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
    assert not _ssh_clients()


# -- tools in the machine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "tool", "package"),
    [
        ("puppet", {"manifest": "site.pp", "modules": []}, "puppet", "puppet-agent"),
        ("salt", {"states": "salt", "apply": "web", "pillar": {}}, "salt-call", "salt-minion"),
        ("chef", {"cookbooks": "cookbooks", "run_list": ["recipe[web]"]}, "cinc-client", "cinc"),
    ],
)
def test_a_tool_that_is_not_in_the_machine(site: Site, kind: str, value: Any, tool: str, package: str) -> None:
    with pytest.raises(Refused, match=f"{tool} is not in the machine") as caught:
        site.apply(kind, value)
    assert package in caught.value.hint


def test_salt_needs_a_top_file_or_a_state(site: Site) -> None:
    with pytest.raises(RecipeError, match=r"no top\.sls in salt"):
        provisioners.find("salt").check({"states": "salt", "apply": None, "pillar": {}}, site.folder)


RECORDER = """#!/bin/sh
{ echo "$0" "$@"; cd /run/imageflow/tool; find . -type f | sort | while read -r f; do echo "$f: $(cat "$f")"; done; } > /opt/said
exit %d
"""


@pytest.mark.parametrize(
    ("kind", "program", "value", "seen"),
    [
        (
            "salt",
            "salt-call",
            {"states": "salt", "apply": "web", "pillar": {"token": {"secret": "token"}}},
            [
                "state.apply web",
                './pillar/imageflow.sls: #!json\n{"token": "s3cret-token"}',
                "./states/web/init.sls: x",
            ],
        ),
        (
            "chef",
            "chef-client",
            {"cookbooks": "cookbooks", "run_list": ["recipe[web]"]},
            ["--local-mode", './node.json: {"run_list": ["recipe[web]"]}', "./cookbooks/web/recipes/default.rb: x"],
        ),
    ],
)
def test_what_a_tool_in_the_machine_is_given(site: Site, kind: str, program: str, value: Any, seen: list[str]) -> None:
    site.write("salt/web/init.sls", "x")
    site.write("cookbooks/web/recipes/default.rb", "x")
    site.connection.put((RECORDER % 0).encode(), f"/usr/local/bin/{program}", mode="0755", control=site.control)
    site.apply(kind, value)
    said = site.sh("cat /opt/said")
    for part in seen:
        assert part in said
    assert site.sh("ls /run/imageflow") == ""
    site.connection.put((RECORDER % 3).encode(), f"/usr/local/bin/{program}", mode="0755", control=site.control)
    with pytest.raises(CommandFailed, match="exit code 3"):
        site.apply(kind, value)
    assert site.sh("ls /run/imageflow") == ""


@pytest.mark.slow
def test_puppet_really(site: Site) -> None:
    site.apply("packages", ["puppet-agent"])
    site.write("site.pp", "include tiny\nfile { '/opt/direct': content => 'direct' }\n")
    site.write("modules/tiny/manifests/init.pp", "class tiny { file { '/opt/module': content => 'module' } }\n")
    for _ in range(2):  # changed, and then not
        site.apply("puppet", {"manifest": "site.pp", "modules": ["modules/tiny"]})
    assert site.sh("cat /opt/direct /opt/module; ls /run/imageflow") == "directmodule"
    site.write("site.pp", "exec { '/bin/false': }\n")
    with pytest.raises(CommandFailed, match=r"puppet site\.pp ended with exit code 4"):
        site.apply("puppet", {"manifest": "site.pp", "modules": []})


# -- local files ------------------------------------------------------------------------------------------------------


def test_a_folder_is_copied_only_as_it_was_pinned(site: Site) -> None:
    site.write("salt/web/init.sls", "x")
    site.write("salt/other.sls", "y")
    site.connection.put((RECORDER % 0).encode(), "/usr/local/bin/salt-call", mode="0755", control=site.control)
    value = {"states": "salt", "apply": "web", "pillar": {}}
    pins = site.pins()
    changes: list[Callable[[], object]] = [
        lambda: site.write("salt/new.sls", "z"),
        lambda: (site.folder / "salt/new.sls").unlink() or (site.folder / "salt/other.sls").unlink(),
        lambda: site.write("salt/other.sls", "changed"),
    ]
    for change, message in zip(
        changes, ["new.sls is not what", "other.sls is not there", "other.sls is not"], strict=True
    ):
        change()
        with pytest.raises(InputChanged, match=message):
            site.apply("salt", value, pins)
