"""The steps that start the machine and wait for it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from imageflow.compute import Compute, MachineState
from imageflow.model import Json
from imageflow.tasks.base import Task
from imageflow.tasks.workbench import Workbench


class BootMachine(Task):
    """Boot the machine from the deepest layer that is there; one that runs already is adopted."""

    step = "boot-machine"
    title = "Boot the machine"
    default_provides = "machine"  # imageflow.compute.Machine, and "stage": index of what was on its disk then

    def execute(self, bench: Workbench, start: Json, base: Json) -> Json:
        stage, key = bench.deepest(max(start["stage"], 0)) or (start["stage"], start["key"] or base["key"])
        machine = bench.start(key)
        bench.say_running(machine)
        return asdict(machine) | {"stage": stage}

    def revert(self, bench: Workbench) -> None:
        bench.delete()

    def survives(self, result: Any, compute: Compute) -> bool:
        # one that died is started again, from its last layer, by whoever needs it
        return compute.state(result["name"]) is not MachineState.ABSENT


class AwaitSsh(Task):
    """Wait until the machine can be logged into."""

    step = "await-ssh"
    title = "Wait for SSH"
    default_provides = "reached"  # {"system": what the guest calls itself}

    def execute(self, bench: Workbench, start: Json, base: Json, machine: Json) -> Json:
        system = bench.on_guest(start["key"] or base["key"], lambda guest: guest.facts.system, report=True)
        bench.log(f"{system}; log in with: imageflow build ssh {bench.build.id}")
        return {"system": system}
