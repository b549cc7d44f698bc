"""The steps that make an image of the machine's disk, and stop the machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from imageflow import content, secrets
from imageflow.compute import Compute, MachineState
from imageflow.errors import CommandFailed, NotSealed, Unavailable
from imageflow.guest import inventory, seal
from imageflow.guest.connect import Connection
from imageflow.model import Json
from imageflow.tasks.base import Task
from imageflow.tasks.workbench import LIVES, Workbench


class SealMachine(Task):
    """Remove keys, identities, logs and caches from the machine; its own login goes, too."""

    step = "seal"
    title = "Seal"
    default_provides = "sealed"  # {"packages": [{"name", "version", "arch"}] | None, "system", "machine_id", "content"}

    def execute(self, bench: Workbench, secret: Callable[[str], str], reached: Json, machine: Json) -> Json:
        return seal_machine(bench, secret)

    def survives(self, result: Any) -> bool:
        return True


class StopMachine(Task):
    """Power the machine off; one that died before that is sealed again."""

    step = "stop-machine"
    title = "Power off"
    default_provides = "stopped"  # {"machine": name}

    def execute(self, bench: Workbench, secret: Callable[[str], str], sealed: Json) -> Json:
        for life in range(1, LIVES + 1):
            if _found(bench) is None:  # it died, or so did the worker that sealed it once more
                bench.log("the machine is not the one that was sealed: once more from its last layer")
                seal_machine(bench, secret)
            try:
                bench.compute.stop(bench.name, bench.control)
                break
            except Unavailable:  # it died on its way down
                if life == LIVES:
                    raise
        if (state := bench.compute.state(bench.name)) is not MachineState.STOPPED:
            raise NotSealed(f"the machine is {state} and was not powered off in order", hint="resume the build")
        return {"machine": bench.name}

    def survives(self, result: Any, compute: Compute) -> bool:
        return compute.state(result["machine"]) is MachineState.STOPPED


def seal_machine(bench: Workbench, secret: Callable[[str], str]) -> Json:
    """Seal the machine; half sealed by a worker that died, it can't be logged into: then from its last layer."""
    begun, done = bench.sealing
    if (known := _found(bench)) is not None:
        return known
    if begun.exists():
        bench.delete()
        begun.unlink()
    values = [secret(name) for name in secrets.named_in(bench.build.recipe)]

    def work(guest: Connection) -> Json:
        found: dict[str, Any] = {
            "packages": inventory.packages(guest, control=bench.control),
            "system": guest.facts.system,
            "machine_id": guest.run("cat /etc/machine-id 2>/dev/null || :", control=bench.control).strip(),
        }
        bench.progress(0.2, "look for secrets")
        if left := seal.find_secrets(guest, values, bench.control):
            raise NotSealed(
                f"a secret of the recipe is in {', '.join(left[:5])}",
                hint="keep it out of the image: hand it to the command that needs it, in its environment",
            )
        bench.progress(0.4, "clean")
        user = bench.image.machine["user"]
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


def _content(bench: Workbench, guest: Connection, packages: list[dict[str, str]] | None) -> str | None:
    """The content digest of what the machine will be when it is sealed; None, and why is in the log."""
    try:
        listed = inventory.tree(guest, bench.keys, control=bench.control, user=bench.image.machine["user"])
    except CommandFailed as error:
        bench.log(f"{error.message}: {error.hint}")
        listed = b""
    digest, why = content.known_digest(packages, listed)
    bench.log(why or f"content {digest}")
    return digest


def _found(bench: Workbench) -> Json | None:
    """What was found in the machine before it was sealed; None when this one is not sealed, or only half."""
    begun, done = bench.sealing
    if not begun.exists() or bench.compute.state(bench.name) not in (MachineState.RUNNING, MachineState.STOPPED):
        return None
    if not done.exists() and not seal.is_sealed(bench.compute.console(bench.name), bench.build.id):
        return None
    known: Json = json.loads(begun.read_text())
    return known
