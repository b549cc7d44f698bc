"""Builds that wait for room for a machine: what is kept of them on the board, and whether one can go on by now."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imageflow.background.complaints import Complaints
from imageflow.builds.parts import Parts
from imageflow.compute import MachineSpec
from imageflow.errors import ImageflowError
from imageflow.host.workspace import machine_name
from imageflow.model import Build
from imageflow.persistence import conductors
from imageflow.recipe import ImageRecipe

if TYPE_CHECKING:
    from imageflow.persistence.jobboard import SqlJob

_LOOK = 1.0  # seconds between two looks for room for one machine
_SAY = 10.0  # seconds between two changes of what a user is told
_LIVING = 5.0  # seconds for which the answer counts which hosts have a conductor


def for_room(build: Build, machine: str, why: str, host: str) -> dict[str, Any]:
    """What a build waits for that found no room for its machine ('' : the one that its image is made on)."""
    wanted = ImageRecipe.from_json(build.recipe).machine
    spec = MachineSpec(wanted.vcpus, wanted.memory, wanted.disk, firmware=wanted.firmware)
    return {
        "machine": machine or machine_name(build),
        "spec": dataclasses.asdict(spec),
        "host": host,
        "why": why.partition(" waits: ")[2] or why,
        "since": time.time(),
    }


class RoomWatch:
    """Asks for the room that builds wait for; for one conductor's thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._looked: dict[str, tuple[float, str | None]] = {}  # uuid of a job -> (when, why it waits)
        self._said: dict[str, float] = {}
        self._living: tuple[float, frozenset[str]] = (-_LIVING, frozenset())
        self._complaints = Complaints()

    def is_there(self, job: SqlJob) -> bool:
        """Whether the build can go on here now. Asking keeps its place in the line.

        Its machine, if it has one, is on the host where it ran: only a conductor there goes on with it, as long as there is one.
        """
        waits = job.waits
        if waits is None:
            return True
        if waits["host"] != self._parts.config.host and waits["host"] in self._hosts():
            return False
        now = time.monotonic()
        when, why = self._looked.get(job.uuid, (-_LOOK, None))
        if now - when >= _LOOK:
            why = self._look(waits)
            self._looked = {key: one for key, one in self._looked.items() if now - one[0] < 60 * _LOOK}
            self._looked[job.uuid] = now, why
            self._say(job, waits, why)
        return why is None

    def _look(self, waits: Mapping[str, Any]) -> str | None:
        """Why there is no room; when that can't be found out, the build itself runs into the error."""
        try:
            return self._parts.compute.room(waits["machine"], MachineSpec(**waits["spec"]))
        except ImageflowError as error:
            self._complaints.add("look for room for a machine", error)
            return None

    def _say(self, job: SqlJob, waits: Mapping[str, Any], why: str | None) -> None:
        now = time.monotonic()
        if why is None or why == waits["why"] or now - self._said.get(job.uuid, -_SAY) < _SAY:
            return
        self._said = {key: said for key, said in self._said.items() if now - said < 6 * _SAY}
        self._said[job.uuid] = now
        with self._complaints.instead_of_failing("note what a build waits for"):
            news = {**waits, "why": why}
            self._parts.database.transact(lambda conn: self._parts.board.note_in(conn, job.uuid, news))

    def _hosts(self) -> frozenset[str]:
        when, hosts = self._living
        if time.monotonic() - when > _LIVING:
            with self._parts.database.read() as conn:
                hosts = frozenset(one.host for one in conductors.living(conn, self._parts.config.host))
            self._living = time.monotonic(), hosts
        return hosts
