"""The steps that make an image of the machine's disk, and stop the machine."""

from __future__ import annotations

import json
from collections.abc import Callable

from imageflow import content
from imageflow.compute import Compute, MachineState
from imageflow.errors import CommandFailed, NotSealed, Unavailable
from imageflow.guest import inventory, seal, way_in
from imageflow.guest.connect import SshConnection
from imageflow.tasks import leaks
from imageflow.tasks.base import Task
from imageflow.tasks.results import BootedResult, ReachedResult, SealedResult, StoppedResult
from imageflow.tasks.workbench import LIVES, Workbench


class SealMachine(Task):
    """Remove keys, identities, logs and caches from the machine, and the build's own login."""

    step = "seal"
    title = "Seal"
    default_provides = "sealed"

    def execute(
        self, bench: Workbench, secret: Callable[[str], str], reached: ReachedResult, machine: BootedResult
    ) -> SealedResult:
        return seal_machine(bench, secret)

    def survives(self, result: SealedResult) -> bool:
        return True


class StopMachine(Task):
    """Power the machine off; one that died before is sealed again."""

    step = "stop-machine"
    title = "Power off"
    default_provides = "stopped"

    def execute(self, bench: Workbench, secret: Callable[[str], str], sealed: SealedResult) -> StoppedResult:
        for life in range(1, LIVES + 1):
            if _found(bench) is None:  # it died, or the worker that sealed it again did
                bench.log("the machine is not the one that was sealed: sealing again from its last layer")
                seal_machine(bench, secret)
            try:
                bench.compute.stop(bench.name, bench.control)
                break
            except Unavailable:  # it died while shutting down
                if life == LIVES:
                    raise
        if (state := bench.compute.state(bench.name)) is not MachineState.STOPPED:
            raise NotSealed(f"the machine is {state} and was not shut down cleanly", hint="resume the build")
        return {"machine": bench.name}

    def survives(self, result: StoppedResult, compute: Compute) -> bool:
        return compute.state(result["machine"]) is MachineState.STOPPED


def seal_machine(bench: Workbench, secret: Callable[[str], str]) -> SealedResult:
    """Seal the machine; one half sealed by a dead worker admits no login: it starts again from its last layer."""
    begun, done = bench.sealing
    if (known := _found(bench)) is not None:
        return known
    if begun.exists():
        bench.delete()
        begun.unlink()
    values = leaks.values_of(bench.build, secret, bench.log)

    def work(guest: SshConnection) -> SealedResult:
        found = SealedResult(
            packages=inventory.packages(guest, control=bench.control),
            system=guest.facts.system,
            machine_id=guest.run("cat /etc/machine-id 2>/dev/null || :", control=bench.control).strip(),
            content=None,
            closed=way_in.serves(guest, bench.control),
        )
        bench.progress(0.2, "look for secrets")
        leaks.refuse_in_machine(seal.find_secrets(guest, values, bench.control), bench.log.clean)
        bench.progress(0.4, "clean")
        user = bench.image.machine.user
        seal.clean(guest, control=bench.control, log=bench.log)
        bench.progress(0.5, "list the content")
        found["content"] = _content(bench, guest, found["packages"])
        aside = begun.with_suffix(".new")
        aside.write_text(json.dumps(found))
        aside.rename(begun)
        bench.progress(0.9, "seal")
        seal.seal(guest, bench.keys, control=bench.control, log=bench.log, user=user, build_id=bench.build.id)
        done.touch()
        return found

    return bench.on_guest(bench.stages[-1].key, work)


def _content(bench: Workbench, guest: SshConnection, packages: list[dict[str, str]] | None) -> str | None:
    """The content digest of the machine once sealed; on failure None, with the reason in the log."""
    try:
        listed = inventory.tree(guest, bench.keys, control=bench.control, user=bench.image.machine.user)
    except CommandFailed as error:
        bench.log(f"{error.message}: {error.hint}")
        listed = b""
    digest, why = content.known_digest(packages, listed)
    bench.log(why or f"content {digest}")
    return digest


def _found(bench: Workbench) -> SealedResult | None:
    """What was found in the machine before it was sealed; None when it is not, or only half sealed."""
    begun, done = bench.sealing
    if not begun.exists() or bench.compute.state(bench.name) not in (MachineState.RUNNING, MachineState.STOPPED):
        return None
    if not done.exists() and not seal.is_sealed(bench.compute.console(bench.name), bench.build.id):
        return None
    known: SealedResult = json.loads(begun.read_text())
    return known
