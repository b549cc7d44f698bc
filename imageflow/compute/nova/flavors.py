"""Chooses a machine's flavor: the smallest that is large enough. Pure, on Nova's list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imageflow.compute import MachineSpec
from imageflow.errors import Refused

_HINT = "ask for less in 'machine:', or name one with [nova] flavor; see 'openstack flavor list'"


def choose(flavors: Iterable[Any], spec: MachineSpec, disk: int, wanted: str | None = None) -> Any:
    """The flavor for a machine whose disk has at least `disk` GiB; `wanted` is a name or an id. Raises Refused.

    An exactly fitting disk is preferred: the image's disk is as large as its flavor's. Flavors without a disk need
    volumes: ordinary members may not use them otherwise.
    """
    flavors = list(flavors)
    if wanted is not None:
        found = [flavor for flavor in flavors if wanted in (flavor.name, flavor.id)]
        if not found:
            raise Refused(f"there is no flavor {wanted!r}", hint="see [nova] flavor, and 'openstack flavor list'")
        flavor = found[0]
        short = _short(flavor, spec, disk)
        if short:
            raise Refused(f"flavor {flavor.name} is too small: {short}", hint="see [nova] flavor")
        return flavor
    fitting = [flavor for flavor in flavors if not _short(flavor, spec, disk)]
    if fitting:
        return min(fitting, key=lambda f: (f.disk != disk, f.disk, f.ram, f.vcpus, f.name))
    need = f"{spec.vcpus} vcpus, {spec.memory} MiB and a disk of {disk} GiB"
    if any(flavor.disk == 0 for flavor in flavors) and not any(flavor.disk for flavor in flavors):
        raise Refused(
            "no flavor has a disk of its own: machines would need volumes", hint="imageflow needs flavors with a disk"
        )
    raise Refused(f"no flavor is large enough for {need}", hint=_HINT)


def _short(flavor: Any, spec: MachineSpec, disk: int) -> str:
    """What the flavor lacks."""
    have = {"vcpus": (flavor.vcpus, spec.vcpus), "MiB": (flavor.ram, spec.memory), "GiB": (flavor.disk, max(1, disk))}
    return ", ".join(f"{has} {unit} where {need} are needed" for unit, (has, need) in have.items() if has < need)
