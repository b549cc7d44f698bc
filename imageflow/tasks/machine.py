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
    # imageflow.compute.Machine, "stage": index of what was on its disk then, and "key": the layer of that
    default_provides = "machine"

    def execute(self, bench: Workbench, start: Json, base: Json) -> Json:
        stage, key = start["stage"], start["key"] or base["key"]
        if bench.compute.state(bench.name) is MachineState.RUNNING:  # it stands on what it was started from
            stage, key = bench.begun or (stage, key)
        else:
            stage, key = bench.deepest(max(stage, 0)) or (stage, key)
            bench.begin(stage, key)
        machine = bench.start(key)
        bench.say_running(machine)
        return asdict(machine) | {"stage": stage, "key": key}

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
        key = machine.get("key") or start["key"] or base["key"]  # an earlier imageflow did not say it
        system = bench.on_guest(key, lambda guest: guest.facts.system, report=True)
        bench.log(f"{system}; log in with: imageflow build ssh {bench.build.id}")
        return {"system": system}
