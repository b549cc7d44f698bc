"""Who may go on from an installed system: whoever has the key that its answer file named."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imageflow import config as configuration
from imageflow.compute import Layers
from imageflow.guest import keys
from imageflow.host.control import Control
from imageflow.inputs import stages
from imageflow.model import Build, BuildState
from imageflow.tasks.install import AwaitInstalled
from imageflow.tasks.prepare_machine import PrepareMachine
from imageflow.tasks.workbench import Workbench
from tests.small.fake_compute import FakeCompute
from tests.small.site import Site

RECIPE: dict[str, Any] = {
    "name": "web",
    "method": "install",
    "iso": {"file": "debian.iso"},
    "answers": {"preseed": "preseed.cfg"},
    "machine": {"vcpus": 1, "memory": 256, "disk": 1, "firmware": "bios", "user": "root"},
    "configure": [{"packages": ["nginx"]}],
    "verify": [],
    "outputs": ["qcow2"],
    "publish": {},
}
PINS = {"iso:file:debian.iso": "a" * 64, "file:preseed.cfg": "b" * 64}


class Cloud:
    """Machines and layers that every host sees; each host has a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compute = FakeCompute(configuration.load(state_dir=str(folder / "cloud")))
        self.disk = folder / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), "64M"], check=True)

    def bench(self, host: str, build_id: str) -> Workbench:
        build = Build(
            build_id, "web", "install", BuildState.RUNNING, "new", "k" * 64, "flow", 0.0, recipe=RECIPE, pins=PINS
        )
        ledger: Any = SimpleNamespace(open=lambda *_: None, close=lambda *_: None)
        config = configuration.load(state_dir=str(self.folder / host))
        control = Control(time.monotonic() + 60, build_id=build_id)
        return Workbench(build, config, self.compute, ledger, control, lambda _: None, lambda *_: None)

    def installed(self, bench: Workbench) -> dict[str, Any]:
        """As `await-installed` leaves it."""
        key = bench.stages[0].key
        self.compute.layers.add_base(
            key, self.disk, "qcow2", title="installed", build_id=bench.build.id, control=bench.control
        )
        return {"key": key}


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_a_later_build_of_the_host_reuses_it(cloud: Cloud) -> None:
    first = cloud.bench("here", "0123456789ab")
    assert PrepareMachine().execute(first)["stage"] == -1
    result = cloud.installed(first)
    later = cloud.bench("here", "ba9876543210")
    assert PrepareMachine().execute(later) == {"stage": 0, **result}
    assert later.keys.public == first.keys.public


def test_a_host_without_the_key_installs_for_itself_and_both_go_on(cloud: Cloud) -> None:
    here, there = cloud.bench("here", "0123456789ab"), cloud.bench("there", "ba9876543210")
    PrepareMachine().execute(here)
    result = cloud.installed(here)
    assert PrepareMachine().execute(there)["stage"] == -1
    cloud.installed(there)
    for host in ("here", "there"):
        assert PrepareMachine().execute(cloud.bench(host, "111111111111"))["stage"] == 0
    assert AwaitInstalled().survives(result, here)


def test_a_host_that_takes_a_build_over_without_its_key_installs_again(cloud: Cloud) -> None:
    here, there = cloud.bench("here", "0123456789ab"), cloud.bench("there", "0123456789ab")
    PrepareMachine().execute(here)
    result = cloud.installed(here)
    assert not AwaitInstalled().survives(result, there), "before it has a key, too"
    assert not there.work.path.exists(), "to look changes nothing"
    assert PrepareMachine().execute(there)["stage"] == -1
    assert not AwaitInstalled().survives(result, there)


def test_hosts_that_share_the_keys_share_the_layers(cloud: Cloud) -> None:
    here, there = cloud.bench("here", "0123456789ab"), cloud.bench("there", "0123456789ab")
    there.config.state_dir.mkdir(parents=True)
    here.config.install_keys_dir.mkdir(parents=True)
    there.config.install_keys_dir.symlink_to(here.config.install_keys_dir)
    PrepareMachine().execute(here)
    result = cloud.installed(here)
    assert PrepareMachine().execute(there) == {"stage": 0, **result}
    assert AwaitInstalled().survives(result, there)


def test_the_janitor_forgets_a_key_when_nothing_lets_it_in(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.service.compute = FakeCompute(site.config)
        folder = site.config.install_keys_dir / ("a" * 64)
        keys.make(folder)
        os.utime(folder, (0, 0))
        login = keys.public(folder)
        assert login is not None
        layers: Layers = site.service.compute.layers
        disk = tmp_path / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
        layers.add_base(
            stages.installed(folder.name, login), disk, "qcow2", title="installed", build_id="b", control=Control()
        )
        damaged = folder.with_name("b" * 64)
        damaged.mkdir()
        (damaged / "client_key").write_text("no key")
        os.utime(damaged, (0, 0))
        site.service.reap()
        assert keys.public(folder) == login
        assert not damaged.exists()
        layers.release("b")
        layers.collect(0, 0, lambda _: False)
        site.service.reap()
        assert not folder.exists()
