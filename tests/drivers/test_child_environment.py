"""No child process is given what it has no use for: our secrets, passwords and URLs stay in our own environment."""

from __future__ import annotations

import ast
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import imageflow
from imageflow import config
from imageflow.compute import files
from imageflow.compute.qemu import identity
from imageflow.dib import environment as dib_environment
from imageflow.errors import ImageflowError
from imageflow.fetch import git
from imageflow.host import disk_files, environment, image_places, process, removal
from imageflow.host.control import Control
from imageflow.host.workspace import Workspace
from imageflow.inputs import tools

PACKAGE = Path(imageflow.__file__).parent
OURS = {
    "IMAGEFLOW_SECRET_TOKEN": "hush-1",
    "OS_PASSWORD": "hush-2",
    "OS_DATABASE__CONNECTION": "postgresql://u:hush-3@h/",
    "OS_WEBHOOKS__GITHUB_SECRET": "hush-4",
    "OS_CLOUD": "hush-5",
    "AWS_SECRET_ACCESS_KEY": "hush-6",
    "DATABASE_URL": "hush-7",
    "BASH_ENV": "/hush-8",
    "PYTHONPATH": "/hush-9",
    "LD_PRELOAD": "",
    "GIT_DIR": "/hush-10",
    "GIT_CONFIG_COUNT": "hush-11",
}
# The variables that a child gets on purpose, although they are named as ours.
MEANT = ("IMAGEFLOW_BUILD",)
# Where children are started: function -> what makes their environment ('': process.run's own default).
STARTS = {
    ("host/removal.py", "remove_tree"): "",
    ("host/removal.py", "mount_tmpfs"): "",
    ("host/removal.py", "_unmount"): "",
    ("host/removal.py", "_attempt"): "",
    ("host/image_places.py", "_said"): "",
    ("host/disk_files.py", "virtual_size"): "env",
    ("host/disk_files.py", "run"): "{**(environment.passed() if env is None else env), 'LC_ALL': 'C'}",
    ("host/disk_files.py", "convert"): "env",
    ("host/disk_files.py", "take"): "env",
    ("host/process.py", "output"): "env",
    ("fetch/git.py", "check_out"): "",
    ("fetch/git.py", "_git"): "{**environment(), **(more or {})}",
    ("listeners/git.py", "_ask"): "environment()",
    ("inputs/tools.py", "_version"): "",
    ("cli/graph.py", "svg"): "",
    ("compute/files.py", "copy_in"): "_env()",
    ("compute/bases.py", "check_base"): "",
    ("compute/nova/media.py", "blank"): "",
    ("compute/qemu/disks.py", "check_whole"): "",
    ("compute/qemu/disks.py", "_create"): "",
    ("compute/qemu/accelerator.py", "runs_guests"): "",
    ("builds/apart.py", "run"): "dict(os.environ)",  # the conductor itself, in another process
    ("compute/qemu/confinement.py", "_takes"): "",
    ("compute/qemu/firewall.py", "apply"): "",
    ("compute/qemu/firewall.py", "remove"): "",
    ("compute/qemu/firewall.py", "stands"): "",
    ("compute/qemu/firewall.py", "trouble"): "",
    ("iso/answers/grammar.py", "_ask"): "",
    ("compute/qemu/start.py", "_start"): "identity.environment(machine.path.parent, machine.name, record.run)",
    ("dib/blockdevice.py", "has_device_mapper"): "{'PATH': PATH}",
    ("dib/preflight.py", "check_machine"): "{'PATH': PATH}",
    ("dib/outputs.py", "make"): "self.env",
    ("tasks/disk.py", "execute"): "env",
    ("tasks/leaks.py", "in_squashfs"): "",
    ("provisioners/ansible.py", "apply"): "_environment(context) | {_VARIABLES: variables}",
}


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 60, build_id="b1")


def leaked(variables: dict[str, str]) -> list[str]:
    named = [name for name in variables if name in OURS or name.startswith(("IMAGEFLOW_SECRET", "OS_"))]
    return named + [name for name, value in variables.items() if "hush-" in value]


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield str(file.relative_to(PACKAGE)), ast.parse(file.read_text())


def starts() -> Iterator[tuple[str, str, str]]:
    """(module, function, the environment as written) of each call that starts a child."""
    for name, tree in modules():
        if name == "host/process.py":
            starters = {"run"}
        elif name == "host/disk_files.py":
            starters = {"run", "process.run"}
        else:
            starters = {"process.run", "process.output", "process.detach", "disk_files.run"}
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func) in starters:
                    given = [ast.unparse(word.value) for word in call.keywords if word.arg == "env"]
                    yield name, function.name, given[0] if given else ""


def test_each_place_that_starts_a_child_is_known_with_its_environment() -> None:
    assert {(name, function): env for name, function, env in starts()} == STARTS


def test_nothing_hands_on_the_whole_environment() -> None:
    """Whole uses of os.environ; a single variable is read by its name."""
    found = []
    for name, tree in modules():
        whole = {
            id(node) for node in ast.walk(tree) if ast.unparse(node) == "os.environ" and isinstance(node, ast.expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr in ("get", "pop")):
                whole.discard(id(node.value))
            elif isinstance(node, ast.Compare):
                whole -= {id(each) for each in node.comparators}
        found += [name] * len(whole)
    # apart is the conductor in another process; dib's takes variables by a prefix; mirrors looks for proxies; openstack compares its own
    assert sorted(set(found)) == ["builds/apart.py", "dib/environment.py", "host/mirrors.py", "openstack/__init__.py"]


def test_what_is_made_for_children_holds_none_of_ours(tmp_path: Path) -> None:
    conf = config.load(state_dir=str(tmp_path))
    work = Workspace(tmp_path / "work")
    made = [
        environment.passed(),
        git.environment(),
        dib_environment.base(work),
        dib_environment.for_dib(work, conf, {"environment": {"A": "b"}}, {}, "", str),
        identity.environment(tmp_path, "m", 1),
        files._env(),
    ]
    assert [leaked(each) for each in made] == [[]] * len(made)
    assert all("PATH" in each for each in made)


# -- and what children really see ------------------------------------------------------------------------


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which programs of all names that we use write their environment, instead of working."""
    folder, seen = tmp_path / "programs", tmp_path / "seen"
    folder.mkdir()
    seen.touch()
    for name in [
        "git",
        "qemu-img",
        "cp",
        "rm",
        "sync",
        "mount",
        "umount",
        "dot",
        "debootstrap",
        "sfdisk",
        "debugfs",
        "gzip",
    ]:
        program = folder / name
        program.write_text(
            f"#!/bin/sh\n/usr/bin/tr '\\0' '\\n' < /proc/self/environ >> {seen}\necho {name} >> {seen}\nexit 1\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return seen


def test_what_children_see(seen: Path, tmp_path: Path, control: Control) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"QFI\xfb" + bytes(508))
    silent = lambda _line: None  # noqa: E731
    calls = {
        "git": lambda: git.commit_of("https://host/x", "refs/heads/main", timeout=10, control=control),
        "qemu-img": lambda: disk_files.convert(disk, "raw", tmp_path / "to", "qcow2", control=control, log=silent),
        "cp": lambda: disk_files.run(["cp", str(disk), "/x"], tmp_path, control=control, log=silent),
        "sfdisk": lambda: image_places.in_disk(disk, 0, control),
        "debootstrap": lambda: tools.version("debootstrap"),
        "rm": lambda: removal.remove_tree(tmp_path / "programs"),
        "umount": lambda: removal._attempt(["umount", "/x"]),
    }
    for program, call in calls.items():
        try:
            call()
        except ImageflowError:
            pass
        assert program in seen.read_text().splitlines(), program
    text = seen.read_text()
    assert "hush-" not in text
    assert not [
        line for line in text.splitlines() if line.startswith(("IMAGEFLOW_", "OS_")) and not line.startswith(MEANT)
    ]


def test_a_child_has_what_it_needs(monkeypatch: pytest.MonkeyPatch, control: Control) -> None:
    wanted = {"HOME": "/h", "LANG": "C.UTF-8", "https_proxy": "http://p:1", "SSL_CERT_FILE": "/c", "TMPDIR": "/tmp"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    said = dict(line.partition("=")[::2] for line in process.run(["env"], control=control, capture=True).splitlines())
    assert wanted.items() <= said.items()
    assert said["IMAGEFLOW_BUILD"] == "b1"
    assert leaked(said) == []
