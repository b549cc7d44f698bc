"""The machine of a build on a stand-in for Nova."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from imageflow.compute import MachineSpec, Source
from imageflow.compute.nova.driver import NovaCompute
from imageflow.compute.nova.servers import DISK, MACHINE, STAGE
from imageflow.host.control import Control
from tests.servers.nova import Nova

BUILD = "0123456789ab"
NAME = f"{BUILD}-main"
SPEC = MachineSpec(memory=256, disk=1)
KEY = "ab" * 32
OTHER = "ba9876543210"
LAYER = {"imageflow:layer": KEY, "imageflow:build_id": OTHER, "imageflow:used": "1.0"}


def control(seconds: float = 15.0) -> Control:
    return Control(time.monotonic() + seconds, build_id=BUILD)


def ours(nova: Nova, status: str, power: int = 1, stage: str = DISK, **more: Any) -> dict[str, Any]:
    """The server of our machine."""
    return nova.server(NAME, status, power, metadata={MACHINE: NAME, STAGE: stage}, **more)


def ensure(compute: NovaCompute, firmware: str = "bios", **more: Any) -> Any:
    more = {"disk": Source("base", "qcow2", KEY), **more}
    spec = dataclasses.replace(SPEC, firmware=firmware)
    more = {"control": control(), **more}
    return compute.ensure(NAME, spec, build_id=BUILD, log=lambda _: None, **more)
