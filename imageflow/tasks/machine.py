"""The steps that start the machine and wait for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from imageflow.compute import Compute, MachineState
from imageflow.config import Config
from imageflow.control import Control
from imageflow.model import Build, Json, ResourceKind
from imageflow.tasks.base import Ledger, Task
from imageflow.tasks.workbench import Workbench, machine_name


class BootMachine(Task):
    """Boot the machine from the deepest layer that is there; one that runs already is adopted."""

    step = "boot-machine"
    title = "Boot the machine"
    default_provides = "machine"  # imageflow.compute.Machine

    def execute(
        self,
        build: Build,
        config: Config,
        compute: Compute,
        ledger: Ledger,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        start: Json,
        base: Json,
    ) -> Json:
        bench = Workbench(build, config, compute, ledger, control, log, progress)
        machine = bench.start(start["key"] or base["key"])
        log(
            f"machine {machine.name} runs as {machine.process}" + f", {machine.accelerator}" * bool(machine.accelerator)
        )
        return asdict(machine)

    def revert(self, build: Build, compute: Compute, ledger: Ledger) -> None:
        delete_machine(build, compute, ledger)

    def survives(self, result: Any, compute: Compute) -> bool:
        # one that died is started again, from its last layer, by whoever needs it
        return compute.state(result["name"]) is not MachineState.ABSENT


class AwaitSsh(Task):
    """Wait until the machine can be logged into."""

    step = "await-ssh"
    title = "Wait for SSH"
    default_provides = "reached"  # {"system": what the guest calls itself}

    def execute(
        self,
        build: Build,
        config: Config,
        compute: Compute,
        ledger: Ledger,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        start: Json,
        base: Json,
        machine: Json,
    ) -> Json:
        bench = Workbench(build, config, compute, ledger, control, log, progress)
        system = bench.on_guest(start["key"] or base["key"], lambda guest: guest.facts.system, report=True)
        log(f"{system}; log in with: imageflow build ssh {build.id}")
        return {"system": system}


def delete_machine(build: Build, compute: Compute, ledger: Ledger) -> None:
    """The machine that the image is made on is gone; absent is fine."""
    name = machine_name(build)
    compute.delete(name)
    ledger.close(ResourceKind.MACHINE, name)
