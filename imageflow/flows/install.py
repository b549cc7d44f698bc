"""The method `install`: an unattended installation from an ISO, configured over SSH."""

from __future__ import annotations

from collections.abc import Sequence

from taskflow.patterns import linear_flow

from imageflow.flows.boot import arguments, configure_machine, make_image
from imageflow.flows.publish import publish_image
from imageflow.tasks.install import AwaitInstalled, BootInstaller, FetchMedia, RemasterMedia
from imageflow.tasks.machine import AwaitSsh, BootMachine
from imageflow.tasks.prepare_machine import PrepareMachine

__all__ = ["arguments", "build_by_install"]


def build_by_install(steps: Sequence[Sequence[str]]) -> linear_flow.Flow:
    """Remaster an installer ISO, install from it unattended, configure, seal, snapshot, verify and publish."""
    return linear_flow.Flow("install").add(
        PrepareMachine(),
        FetchMedia(),
        RemasterMedia(),
        BootInstaller(),
        AwaitInstalled(),
        BootMachine(),
        AwaitSsh(),
        *configure_machine(steps),
        *make_image(),
        publish_image(),
    )
