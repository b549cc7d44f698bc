"""Loads a build's flow for one run, with everything that its steps may name in their signatures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from imageflow.builds.engine import FlowRun, describe
from imageflow.builds.machines import has_machine
from imageflow.builds.parts import Parts
from imageflow.builds.recorder import Recorder
from imageflow.config import Config
from imageflow.errors import SecretMissing
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from imageflow.inputs.stages import limits
from imageflow.model import Build
from imageflow.persistence.claim import Claim
from imageflow.persistence.ledger import BuildLedger
from imageflow.recipe import ImageRecipe, secret_values


def load(
    parts: Parts, claim: Claim, conductor: str, build: Build, log: BuildLog, control: Control, *, revert: bool = False
) -> FlowRun:
    """The flow in its last state; from now on its writes prove the claim, and are recorded."""
    config = parts.config
    recorder = Recorder(
        parts.database,
        build.id,
        conductor=conductor,
        prove=claim.prove,
        log=log,
        control=control,
        step_timeout=_step_timeout(build, config),
        explain=describe,
    )

    def secret(name: str) -> str:
        value = secret_values.resolve(name, config)
        log.mask(value)
        return value

    for name in secret_values.named_in(build.recipe):  # the output of an earlier worker's steps may hold them
        with contextlib.suppress(SecretMissing):
            secret(name)

    ledger = BuildLedger(parts.database, build.id, config.host, claim.prove)
    inject: dict[str, Any] = {
        "build": build,
        "config": config,
        "log": log,
        "progress": recorder.progress,
        "control": control,
        "ledger": ledger,
        "store": parts.store,
        "compute": parts.compute,
        "secret": secret,
    }
    if has_machine(build):
        from imageflow.tasks.workbench import Workbench  # SSH, which no other build needs

        inject["bench"] = Workbench(build, config, parts.compute, ledger, control, log, recorder.progress)
    store = parts.flows.fenced(claim.prove, recorder.on_atom, clean=log.clean)
    flow = FlowRun(store, build, inject, revert=revert)
    recorder.order(flow.positions)
    return flow


def _step_timeout(build: Build, config: Config) -> Callable[[str], float]:
    """Seconds that each step may take: its own limit, the recipe's, or the configuration's."""
    own = {} if build.method not in ("boot", "install") else limits(build.recipe)
    default = ImageRecipe.from_json(build.recipe).timeout.step or config.builds.step_timeout
    return lambda name: own.get(name) or default
