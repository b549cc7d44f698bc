"""The method `boot`: boot a base image, configure it over SSH, and make an image of its disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskflow.patterns import linear_flow

from imageflow.flows.publish import publish_image
from imageflow.inputs.stages import configure_steps
from imageflow.model import Json
from imageflow.tasks.configure import Configure
from imageflow.tasks.describe import DescribeMachineImage
from imageflow.tasks.machine import AwaitSsh, BootMachine
from imageflow.tasks.prepare_machine import DeleteMachine, FetchBase, PrepareMachine
from imageflow.tasks.seal import SealMachine, StopMachine
from imageflow.tasks.snapshot import SnapshotMachine
from imageflow.tasks.verify import VerifyImage


def arguments(recipe: Json) -> list[Any]:
    """The factory's arguments: a [step, title] pair for each entry of `configure`."""
    return [[list(step) for step in configure_steps(recipe)]]


def build_by_boot(steps: Sequence[Sequence[str]]) -> linear_flow.Flow:
    """Boot the base or the deepest existing layer, then configure, seal, snapshot, verify and publish it."""
    return linear_flow.Flow("boot").add(
        PrepareMachine(),
        FetchBase(),
        BootMachine(),
        AwaitSsh(),
        *configure_machine(steps),
        *make_image(),
        publish_image(),
    )


def configure_machine(steps: Sequence[Sequence[str]]) -> list[Configure]:
    """One step for each entry of `configure`."""
    return [Configure(position, name, title) for position, (name, title) in enumerate(steps)]


def make_image() -> list[Any]:
    """From a configured machine to the verified files of an image."""
    return [
        SealMachine(),
        StopMachine(),
        SnapshotMachine(),
        VerifyImage(),
        DescribeMachineImage(),
        DeleteMachine(),
    ]
