"""A flow with a machine of the fake driver: boot it, work on it, publish; `fail-work` and `slow-work` as in tests.small.flow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskflow.patterns import linear_flow

from imageflow.builds.conductor import Conductor
from imageflow.compute import MachineSpec
from imageflow.errors import Refused
from imageflow.model import Build, BuildState, ResourceKind
from imageflow.tasks.base import Task
from tests.small.fake_compute import FakeCompute
from tests.small.flow import Trace
from tests.small.site import Site


class BootIt(Task):
    """Boot the machine, or adopt it."""

    step = "boot"
    default_provides = "machine"

    def execute(self, build: Any, compute: Any, control: Any, log: Any, ledger: Any) -> str:
        name = f"{build.id}-main"
        ledger.open(ResourceKind.MACHINE, name)
        spec = MachineSpec(build.recipe["machine"]["vcpus"], 64, 1)
        compute.ensure(name, spec, build_id=build.id, control=control, log=log)
        return name

    def revert(self, build: Any, compute: Any, ledger: Any) -> None:
        compute.delete(f"{build.id}-main")
        ledger.close(ResourceKind.MACHINE, f"{build.id}-main")


class Work(Task):
    """Needs the machine as it was left."""

    step = "work"
    default_provides = "publication"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._trace = Trace(Path(folder))

    def execute(self, build: Any, compute: Any, control: Any, ledger: Any, machine: str) -> dict[str, Any]:
        self._trace.add(execute="work", build=build.id, state=str(compute.state(machine)))
        while self._trace.has(f"slow-{build.id}"):
            control.wait(0.05)
        if self._trace.has("fail-work"):
            raise Refused("it was told to fail")
        compute.delete(machine)
        ledger.close(ResourceKind.MACHINE, machine)
        about: dict[str, Any] = {"image": build.image, "store": "none", "digest": f"{build.id}{'0' * 52}"}
        return about | {"path": "", "artifacts": [], "packages": None, "content": None, "properties": {}}


def machined(folder: str) -> linear_flow.Flow:
    """A machine, and work on it."""
    return linear_flow.Flow("machined").add(BootIt(), Work(folder))


class MachinedSite(Site):
    """With machines that only seem to run; its conductors are threads of the test."""

    def __enter__(self) -> MachinedSite:
        super().__enter__()
        self.service.compute = FakeCompute(self.config)  # type: ignore[misc]
        return self

    def machined(self, vcpus: int = 1, on_failure: str = "pause") -> Build:
        """Queue a build of it."""
        recipe = {
            "name": "it",
            "on_failure": on_failure,
            "machine": {"vcpus": vcpus, "memory": 64, "disk": 1, "firmware": "bios"},
        }
        return self.queued(recipe, f"{__name__}.machined")

    @contextmanager
    def conducted(self) -> Iterator[Conductor]:
        """A conductor works in the block."""
        conductor = Conductor(self.service)
        thread = threading.Thread(target=conductor.run, daemon=True)
        thread.start()
        try:
            yield conductor
        finally:
            conductor.stop(now=True)
            thread.join(30)
            assert not thread.is_alive()

    def paused(self, number: int) -> list[Build]:
        """So many builds with a machine that runs, paused."""
        self.trace.set("fail-work")
        made = [self.machined() for _ in range(number)]
        for build in made:
            self.await_state(build, BuildState.PAUSED)
        self.trace.unset("fail-work")
        return made
