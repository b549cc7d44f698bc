"""A running cloud: start it, stop and start its services one by one, end it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from keystoneauth1.loading import get_plugin_loader
from keystoneauth1.session import Session

from tests.cloud import configuration, identity, interfaces, provision
from tests.cloud.daemons import daemons
from tests.cloud.programs import Programs
from tests.cloud.settings import LISTENERS, Settings, root, write
from tests.cloud.supervision import Supervision, hold, lives
from tests.cloud.template import Template
from tests.servers.services import free_ports

_KEPT = ("logs", "lock")  # of a cloud that ended, for people to read
_KEEP_LOGS = 86400  # seconds
TOKEN_LIFE = 86400  # seconds


class Cloud:
    """One-node OpenStack on loopback. Made by `start` or `running`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.folder
        self.ports: Mapping[str, int] = settings.ports
        self.auth_url = settings.auth_url
        self.bus = settings.bus
        self.clouds_yaml = settings.clouds_yaml
        self.password = settings.password
        self.gateway = settings.gateway  # this machine's address in the guests' network net0
        self.supervision = Supervision(settings.folder)
        self._programs = Programs(settings, self.supervision)

    @property
    def services(self) -> tuple[str, ...]:
        """The names of those that always run; `stop` and `start` also take those that run on demand."""
        return tuple(name for name, daemon in daemons(self.settings).items() if not daemon.on_demand)

    def running(self) -> list[str]:
        """The names of the services that run."""
        have = set(self.supervision.programs()["running"])
        return [s for s in self.services if s in have]

    def check(self) -> None:
        """Raise AssertionError when a service has ended by itself."""
        self._programs.check(*self.services)

    def stop(self, service: str, how: signal.Signals | None = None) -> None:
        """Stop a service, in order or with a signal; returns when it is gone."""
        self._programs.stop(service, how)

    def start(self, *services: str) -> None:
        """Start services that were stopped; returns when they answer."""
        self._programs.start(*services)

    def restart(self, *services: str) -> None:
        """Stop and start them."""
        for service in services:
            self.stop(service)
        self.start(*services)

    @contextlib.contextmanager
    def without(self, *services: str) -> Iterator[None]:
        """Stop these services for the length of the block."""
        for service in services:
            self.stop(service)
        try:
            yield
        finally:
            self.start(*services)

    @contextlib.contextmanager
    def token_life(self, seconds: int) -> Iterator[None]:
        """Tokens that are issued within the block live for this many seconds."""
        try:
            self._keystone(seconds)
            yield
        finally:
            self._keystone(self.settings.token_life)

    def _keystone(self, token_life: int) -> None:
        configuration.write_keystone(replace(self.settings, token_life=token_life))
        self.restart("keystone")

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.settings.logs / f"{service}.log"

    def environment(self, cloud: str = "imageflow") -> dict[str, str]:
        """What clients need: OS_CLIENT_CONFIG_FILE, OS_CLOUD, NO_PROXY, and the cloud for tests to use."""
        return {
            "OS_CLIENT_CONFIG_FILE": str(self.clouds_yaml),
            "OS_CLOUD": cloud,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "IMAGEFLOW_TEST_CLOUD": str(self.folder),
        }

    def session(self, cloud: str = "imageflow") -> Session:
        """keystoneauth's session of a cloud of clouds.yaml."""
        entry = yaml.safe_load(self.clouds_yaml.read_text())["clouds"][cloud]
        return identity.session(get_plugin_loader(entry["auth_type"]).load_from_options(**entry["auth"]))

    def openstack(self, *argv: str, cloud: str = "outsider") -> Any:
        """Run the openstack client as a user would; -> its JSON."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("openstack")), *argv, *(("-f", "json") if _shows(argv) else ())],
            env={**os.environ, **self.environment(cloud)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"openstack {' '.join(argv)}: {done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def enter(self, *argv: str) -> list[str]:
        """A command that runs a program inside, where libvirt and the network namespaces are visible."""
        return ["nsenter", f"--target={self.supervision.pid}", "--mount", "--pid", "--", *argv]

    def end(self) -> None:
        """End everything that the cloud started; its logs stay until another cloud starts."""
        self.supervision.end()
        interfaces.remove(self.settings.network)
        _empty(self.folder)


def _shows(argv: tuple[str, ...]) -> bool:
    return not {"delete", "set", "unset", "remove", "add", "save"} & set(argv[:3])


def running(folder: Path) -> Cloud:
    """The cloud that runs in a folder."""
    cloud = Cloud(Settings.load(folder))
    assert lives(folder), f"no cloud runs in {folder}"
    return cloud


def sweep() -> None:
    """Remove what killed clouds have left, and logs after a day. Their processes died with them."""
    interfaces.remove_dead(lives)
    for folder in root().glob("*"):
        if not folder.is_dir() or folder.name.startswith("template"):
            continue
        lock = hold(folder)
        if lock is not None:
            _empty(folder)
            if time.time() - folder.stat().st_mtime > _KEEP_LOGS:
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextlib.contextmanager
def _own_folder(name: str) -> Iterator[tuple[Path, int]]:
    """An empty folder for a cloud that nobody else uses meanwhile, and the lock on it."""
    folder = root() / name
    root().mkdir(mode=0o711, parents=True, exist_ok=True)
    closed = [str(p) for p in (root(), *root().parents) if not p.stat().st_mode & stat.S_IXOTH]
    assert not closed, f"the user mysql cannot traverse {closed[0]}: set IMAGEFLOW_TEST_CLOUD_DIR to another folder"
    sweep()
    folder.mkdir(exist_ok=True)
    lock = hold(folder, patience=5)  # another process may be checking whether a cloud lives here
    assert lock is not None, f"a cloud runs in {folder} already"
    try:
        shutil.rmtree(folder / "logs", ignore_errors=True)
        _empty(folder)
        folder.chmod(0o711)
        yield folder, lock
    finally:
        os.close(lock)


def prepare(name: str) -> None:
    """Make what all clouds begin with, unless it is there: what a first start would do before it starts anything."""
    with _own_folder(name) as (folder, lock), Template().alone():
        _make_template(folder, lock)


def _make_template(folder: Path, lock: int) -> Template:
    template = Template()
    if not template.made:
        _say("making schemas, for this start and all later ones")
        made = _prepare(folder, secrets.token_hex(12), TOKEN_LIFE)
        with _supervised(made, lock, detached=False) as supervision:
            template.make(made, supervision)
        _empty(folder)
    return template


def launch(name: str, *, detached: bool = False, token_life: int = TOKEN_LIFE) -> Cloud:
    """Start an empty cloud in a folder of its own. Unless detached, it dies with the thread that called this."""
    with _own_folder(name) as (folder, lock):
        with Template().alone():
            template = _make_template(folder, lock)
            facts = template.facts()
            settings = _prepare(folder, facts["password"], token_life)
            template.copy(settings)
        write(settings.clouds_yaml, yaml.safe_dump(provision.clouds(settings, facts), sort_keys=False))
        interfaces.lay(settings)
        cloud = Cloud(settings)
        try:
            cloud.supervision.launch(lock, detached)
            _boot(cloud)
        except BaseException:
            cloud.end()
            raise
    return cloud


def _prepare(folder: Path, password: str, token_life: int) -> Settings:
    base = os.environ.get("IMAGEFLOW_TEST_CLOUD_PORTS")
    ports = range(int(base), int(base) + len(LISTENERS)) if base else free_ports(len(LISTENERS))
    settings = Settings(
        folder=folder,
        ports=dict(zip(LISTENERS, ports, strict=True)),
        network=interfaces.free_network(),
        password=password,
        token_life=token_life,
    )
    for path in (settings.state, settings.state / "locks", settings.state / "nova/instances", settings.logs):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711)
    configuration.write_all(settings)
    settings.save()
    return settings


@contextlib.contextmanager
def _supervised(settings: Settings, lock: int, detached: bool) -> Iterator[Supervision]:
    supervision = Supervision(settings.folder)
    supervision.launch(lock, detached)
    try:
        yield supervision
    finally:
        supervision.end()


def _boot(cloud: Cloud) -> None:
    """Start the services, those that nothing depends on last, and make what needs them."""
    provisioner = provision.Provisioner(cloud.settings)
    agents = ("nova-compute", "neutron-linuxbridge-agent", "neutron-dhcp-agent")
    cloud.start(*(s for s in cloud.services if s not in agents))
    provisioner.network()  # before its agents, which then begin with it
    cloud.start(*agents)
    provisioner.flavors()
    provisioner.wait(cloud.check)
    Template().keep_capabilities(cloud.settings)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _say(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)
