"""The steps that start the machine and wait for it."""

from __future__ import annotations

from imageflow.compute import Compute, MachineState
from imageflow.tasks.base import Task
from imageflow.tasks.results import BootedResult, LayerResult, ReachedResult, StartResult, machine_result
from imageflow.tasks.workbench import Workbench


class BootMachine(Task):
    """Boot the machine from the deepest existing layer; a machine that runs already is adopted."""

    step = "boot-machine"
    title = "Boot the machine"
    default_provides = "machine"

    def execute(self, bench: Workbench, start: StartResult, base: LayerResult) -> BootedResult:
        stage, key = start["stage"], start["key"] or base["key"]
        if bench.compute.state(bench.name) is MachineState.RUNNING:  # it keeps the layer it was started from
            stage, key = bench.begun or (stage, key)
        else:
            stage, key = bench.deepest(max(stage, 0)) or (stage, key)
            bench.begin(stage, key)
        machine = bench.start(key)
        bench.say_running(machine)
        return BootedResult(**machine_result(machine), stage=stage, key=key)

    def revert(self, bench: Workbench) -> None:
        bench.delete()

    def survives(self, result: BootedResult, compute: Compute) -> bool:
        # a dead one is started again from its last layer by the first step that needs it
        return compute.state(result["name"]) is not MachineState.ABSENT


class AwaitSsh(Task):
    """Wait until the machine can be logged into."""

    step = "await-ssh"
    title = "Wait for SSH"
    default_provides = "reached"

    def execute(self, bench: Workbench, machine: BootedResult) -> ReachedResult:
        system = bench.on_guest(machine["key"], lambda guest: guest.facts.system, report=True)
        bench.log(f"{system}; log in with: imageflow build ssh {bench.build.id}")
        return {"system": system}
