"""What a build believes to be on its machine is what the machine was started from, whatever layers there are by now."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imageflow import config as configuration
from imageflow.compute import Address, Layer, MachineState
from imageflow.errors import ImageflowError, MachineTrouble, Refused, Unavailable
from imageflow.host.control import Control
from imageflow.model import Build, BuildState, ResourceKind
from imageflow.tasks.machine import AwaitSsh, BootMachine
from imageflow.tasks.prepare_machine import DeleteMachine, PrepareMachine
from imageflow.tasks.workbench import Workbench
from tests.small.fake_compute import FakeCompute

BUILD, OTHER = "0123456789ab", "ba9876543210"
RECIPE: dict[str, Any] = {
    "name": "web",
    "method": "boot",
    "base": {"file": "base.qcow2"},
    "machine": {"vcpus": 1, "memory": 256, "disk": None, "firmware": "bios", "user": "root"},
    "configure": [{"packages": ["nginx"]}, {"packages": ["curl"]}],
    "verify": [],
    "outputs": ["qcow2"],
    "publish": {},
}
START = {"stage": 0}


class Said(list[str]):
    """A log that is read again."""

    def __call__(self, text: str) -> None:
        self.append(text)

    def clean(self, text: str) -> str:
        return text


class Bench:
    """A build's workbench on machines that nothing runs in, and the layer of its base."""

    def __init__(self, folder: Path) -> None:
        loaded = configuration.load(state_dir=str(folder / "state"))
        install = dataclasses.replace(loaded.install, ssh=0.3)
        self.config = dataclasses.replace(loaded, install=install)
        self.compute = FakeCompute(self.config)
        self.compute.answer_at(Address("127.0.0.1", 1))
        build = Build(
            BUILD,
            "web",
            "boot",
            BuildState.RUNNING,
            "new",
            "k" * 64,
            "flow",
            time.time(),
            recipe=RECIPE,
            pins={"base:file:base.qcow2": "a" * 64},
        )
        self.closed: list[ResourceKind] = []
        ledger = SimpleNamespace(open=lambda *_: None, close=lambda kind, _: self.closed.append(kind))
        self.log = Said()
        self.bench = Workbench(
            build,
            self.config,
            self.compute,
            ledger,
            Control(time.monotonic() + 60, build_id=BUILD),
            self.log,
            lambda *_: None,
        )
        self.bench.work.path.mkdir(parents=True)
        disk = folder / "base.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
        self.base = self.compute.layers.add_base(
            self.bench.stages[0].key, disk, "qcow2", title="base", build_id=BUILD, control=self.bench.control
        )

    def layer_of(self, stage: int, build_id: str = OTHER) -> Layer:
        """A build that has come further makes the layer of a stage, on a machine of its own."""
        name = f"{build_id}-other"
        self.compute.ensure(
            name,
            self.bench.spec(),
            build_id=build_id,
            control=self.bench.control,
            log=self.log,
            disk=self.base.source,
        )
        key = self.bench.stages[stage].key
        made = self.compute.checkpoint(
            name, key, parent=self.base.key, title="other", build_id=build_id, control=self.bench.control
        )
        self.compute.delete(name)
        return made

    def boot(self) -> dict[str, Any]:
        """As a worker does, and another one after it."""
        result = BootMachine().execute(self.bench, START | {"key": self.base.key}, {"key": self.base.key})
        assert json.loads(json.dumps(result)) == result
        return dict(result)

    def stands_on(self, layer: Layer) -> bool:
        """Whether the machine's disk begins as this layer."""
        folder = self.config.machines_dir / self.bench.name
        chains = [
            subprocess.run(
                ["qemu-img", "info", "-U", "--backing-chain", str(file)], check=True, capture_output=True, text=True
            ).stdout
            for file in folder.glob("*.qcow2")
        ]
        assert chains, list(folder.iterdir())
        return any(layer.source.path in chain for chain in chains)


@pytest.fixture
def site(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_layer_that_somebody_makes_meanwhile_is_not_on_a_machine_that_runs(site: Bench) -> None:
    first = site.boot()
    assert (first["stage"], first["key"]) == (0, site.base.key)
    theirs = site.layer_of(2)
    again = site.boot()  # its first worker died before this was written down
    assert (again["stage"], again["key"], again["process"]) == (0, site.base.key, first["process"])
    site.compute.delete(site.bench.name)
    anew = site.boot()
    assert (anew["stage"], anew["key"]) == (2, theirs.key)
    assert site.stands_on(theirs)


def test_a_machine_that_was_installed_has_nothing_else_on_it(site: Bench) -> None:
    """On Nova it runs already, when it has been installed."""
    site.boot()
    site.bench.forget_begun()
    site.layer_of(1)
    assert site.boot()["stage"] == 0


def test_a_machine_that_dies_before_it_is_reached_starts_from_what_it_was_started_from(site: Bench) -> None:
    theirs = site.layer_of(1)
    machine = site.boot()
    assert machine["stage"] == 1
    site.compute.delete(site.bench.name)
    with pytest.raises(ImageflowError):  # nobody answers
        AwaitSsh().execute(site.bench, machine)
    assert site.compute.state(site.bench.name) is MachineState.RUNNING
    assert site.stands_on(theirs), site.log


def test_a_machine_that_only_another_host_can_get_into_is_made_anew(site: Bench, tmp_path: Path) -> None:
    """In a cloud it is there for every host, and its keys are where they were made."""
    site.boot()
    PrepareMachine().execute(site.bench)
    assert site.compute.state(site.bench.name) is MachineState.RUNNING
    elsewhere = configuration.load(state_dir=str(tmp_path / "another host"))
    PrepareMachine().execute(dataclasses.replace(site.bench, config=elsewhere))
    assert site.compute.state(site.bench.name) is MachineState.ABSENT


def test_a_machine_that_powers_off_while_it_boots_is_not_waited_for(site: Bench) -> None:
    install = dataclasses.replace(site.config.install, ssh=60.0)
    bench = dataclasses.replace(site.bench, config=dataclasses.replace(site.config, install=install))
    machine = site.boot()
    threading.Timer(0.5, site.compute.power_off, [bench.name]).start()
    began = time.monotonic()
    with pytest.raises(MachineTrouble, match="was powered off in this step"):
        AwaitSsh().execute(bench, machine)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("problem", [Unavailable("nova-compute is away"), Refused("it is locked")], ids=repr)
def test_a_machine_that_can_not_be_deleted_is_no_reason_not_to_publish(
    site: Bench, monkeypatch: pytest.MonkeyPatch, problem: ImageflowError
) -> None:
    site.boot()

    def delete(name: str) -> None:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(site.compute, "delete", delete)
        DeleteMachine().execute(site.bench, {"checks": 0})
    assert site.closed == [ResourceKind.LAYERS]  # the machine is still in the ledger, where the janitor finds it
    assert any("left for the janitor" in line for line in site.log)
    DeleteMachine().execute(site.bench, {"checks": 0})
    assert ResourceKind.MACHINE in site.closed
