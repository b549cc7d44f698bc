"""Puts the machines of builds that stay paused away, and brings them back when the builds go on."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable

from imageflow.builds.machines import has_machine
from imageflow.builds.parts import Parts
from imageflow.compute import MachineSpec, MachineState
from imageflow.errors import Cancelled, ImageflowError, NoRoom
from imageflow.host.buildlog import BuildLog, log_path
from imageflow.host.control import Control
from imageflow.host.workspace import MAIN, THROW_AWAY, Workspace, machine_name
from imageflow.model import Build, BuildState
from imageflow.persistence import builds
from imageflow.recipe import ImageRecipe

LOG = logging.getLogger(__name__)
_GRACE = 60.0  # seconds


def put_away(parts: Parts, ids: Iterable[str]) -> None:
    """Park the machines of these builds that are on this host, as long as the builds are paused."""
    for build_id in ids:
        with parts.database.read() as conn:
            build = builds.get(conn, build_id)
        if build.host != parts.config.host or not has_machine(build):
            continue
        for role in (MAIN, THROW_AWAY):
            _put_away(parts, build, role)


def _put_away(parts: Parts, build: Build, role: str) -> None:
    if _was_just_woken(Workspace.of(build, parts.config)):
        return
    control, wanted = Control(), functools.partial(_is_paused, parts, build.id)
    try:
        with control.watched(functools.partial(_must_wait, wanted), every=1.0):
            parked = parts.compute.park(machine_name(build, role), control, wanted)
    except Cancelled as why:
        LOG.info("build %s: %s", build.id, why)
    except ImageflowError as error:
        LOG.warning("the machine of build %s can't be put away: %s", build.id, error)
    else:
        if parked:
            _say(parts, build, "its machine is put away: others may use its memory and processors")


def _was_just_woken(work: Workspace) -> bool:
    """Whether a user has brought the machine back, and is about to log in."""
    try:
        return 0.0 <= time.time() - work.woken.stat().st_mtime < _GRACE
    except OSError:
        return False


def _must_wait(paused: Callable[[], bool]) -> None:
    """A build that goes on, or is to end, does not wait until its machine is put away."""
    if not paused():
        raise Cancelled("its machine is needed, and not put away")


def bring_back(parts: Parts, build: Build, control: Control, log: BuildLog) -> None:
    """Let the machine of a build run again that was put away. Raises NoRoom; Unavailable, Refused while it stays as it is.

    One that broke is left to the steps: they start it again from its last layer.
    """
    if not has_machine(build):
        return
    name, wanted = machine_name(build), ImageRecipe.from_json(build.recipe).machine
    try:
        if parts.compute.state(name) is not MachineState.PARKED:
            return
        spec = MachineSpec(wanted.vcpus, wanted.memory, wanted.disk, firmware=wanted.firmware)
        work = Workspace.of(build, parts.config)
        if work.path.is_dir():
            work.woken.touch()
        parts.compute.ensure(name, spec, build_id=build.id, control=control, log=log)
    except NoRoom:
        raise
    except ImageflowError as error:
        control.check()
        log(str(error))
        if _is_parked(parts, name):
            raise


def _is_parked(parts: Parts, name: str) -> bool:
    try:
        return parts.compute.state(name) is MachineState.PARKED
    except ImageflowError:  # a cloud that is down: the steps meet the same
        return False


def _is_paused(parts: Parts, build_id: str) -> bool:
    with parts.database.read() as conn:
        return builds.get(conn, build_id).state is BuildState.PAUSED


def _say(parts: Parts, build: Build, line: str) -> None:
    LOG.info("build %s: %s", build.id, line)
    log = BuildLog(log_path(parts.config.logs_dir, build.id))
    try:
        log(line)
    finally:
        log.close()
