"""What became of everything in a soak: events, builds, resources, processes, mounts, files, leases, announcements."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import sqlalchemy as sa

from imageflow.compute import MachineState
from imageflow.model import BuildState, StepState
from imageflow.persistence import tables
from imageflow.service import Service

GRACE = 180.0  # seconds for what is done behind builds: by default the janitor looks every minute, the parking too
PARKED_AFTER = 900.0  # seconds: [builds] park_after, and what putting four machines away takes
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Host:
    """What is on this host that could come from a soak in a folder."""

    mounts: frozenset[str]
    loops: frozenset[str]

    @classmethod
    def now(cls, folder: Path) -> Self:
        mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
        loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout.splitlines()
        return cls(
            frozenset(mount for mount in mounts if str(folder) in mount),
            frozenset(loop for loop in loops if str(folder) in loop),
        )


def processes(folder: Path) -> list[psutil.Process]:
    """Those of builds and machines in this folder, without those that serve."""
    found = []
    mark = str(folder).encode()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            proc = Path(f"/proc/{process.pid}")
            # a machine's QEMU has the folder in its arguments; a step's child in its environment, or it works there
            about = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes() + str(process.cwd()).encode()
            if mark in about and process.pid != os.getpid() and not _serves(about):
                found.append(process)
    return found


def _serves(about: bytes) -> bool:
    return b"\0serve\0" in about


@dataclass(slots=True)
class Watch:
    """Looks again and again for what must not be, even for a moment."""

    folder: Path
    doubled: set[str] = field(default_factory=set)
    most: int = 0  # machines that ran at once
    _suspects: set[str] = field(default_factory=set)
    _next: float = 0.0

    def look(self) -> None:
        """Two QEMUs of one machine at two looks in a row; between fork and exec there are two for a moment."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.5
        running: Counter[str] = Counter()
        for process in processes(self.folder):
            with contextlib.suppress(OSError, psutil.Error):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                name = re.search(rb"IMAGEFLOW_MACHINE=([^\0]+)", environment)
                if name and "qemu-system" in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                    running[name[1].decode()] += 1
        self.most = max(self.most, len(running))
        twice = {name for name, count in running.items() if count > 1}
        self.doubled |= twice & self._suspects
        self._suspects = twice


def count(service: Service) -> str:
    """Builds by state, in words."""
    with service.database.read() as conn:
        query = sa.select(tables.builds.c.state, sa.func.count()).group_by(tables.builds.c.state)
        return ", ".join(f"{number} {state}" for state, number in sorted(conn.execute(query).tuples()))


def waiting(service: Service) -> list[str]:
    """What still waits: events for a verdict, reactions for an outcome, rebuilds, builds, jobs, deliveries."""
    t = tables
    active = (BuildState.QUEUED, BuildState.RUNNING, BuildState.REVERTING)
    asked = {
        "events without a verdict": sa.select(t.events.c.seq).where(t.events.c.verdict.is_(None)),
        "reactions without an outcome": sa.select(t.reactions.c.id).where(t.reactions.c.outcome.is_(None)),
        "open rebuilds": sa.select(t.rebuilds.c.image).where(t.rebuilds.c.open),
        "active builds": sa.select(t.builds.c.id).where(t.builds.c.state.in_(active)),
        "jobs": sa.select(t.jobs.c.name).where(~t.jobs.c.trashed),
        "undelivered announcements": sa.select(t.deliveries.c.seq).where(t.deliveries.c.state == "waiting"),
        "publications under way": sa.select(t.publications.c.version_id).where(t.publications.c.state == "waiting"),
    }
    with service.database.read() as conn:
        found = {what: conn.execute(query).scalars().all() for what, query in asked.items()}
    return [f"{len(rows)} {what}: {', '.join(map(str, rows[:5]))}" for what, rows in found.items() if rows]


def leases(service: Service) -> list[str]:
    """Rows that a process holds; the conductors that live are no leases."""
    held = []
    with service.database.read() as conn:
        for table in (tables.jobs, tables.rebuilds, tables.deliveries, tables.publications):
            for owner in conn.execute(sa.select(table.c.owner).where(table.c.owner.is_not(None))).scalars():
                held.append(f"{table.name}: {owner}")
    return held


def take(
    service: Service, folder: Path, before: Host, watch: Watch, sent: set[str], acknowledged: set[str]
) -> tuple[dict[str, Any], list[str]]:
    """-> (the audit, what is wrong); waits for what is done behind builds."""
    paused = {build.id for build in service.builds(states=[BuildState.PAUSED], limit=1000)}
    _settle(lambda: not _running(service, paused), PARKED_AFTER)
    _settle(lambda: not _left(service, folder, before, paused), GRACE)
    facts, wrong = _events(service, sent, acknowledged)
    for more, faults in (_builds(service, watch), _outside(service, folder, before, paused)):
        facts |= more
        wrong += faults
    return facts, wrong


def _settle(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(1)


def _events(service: Service, sent: set[str], acknowledged: set[str]) -> tuple[dict[str, Any], list[str]]:
    with service.database.read() as conn:
        e, r = tables.events.c, tables.reactions.c
        stored = Counter(conn.execute(sa.select(e.id).where(e.source == "/soak")).scalars())
        verdicts: dict[str | None, int] = dict(
            conn.execute(sa.select(e.verdict, sa.func.count()).group_by(e.verdict)).tuples().all()
        )
        outcomes: dict[str | None, int] = dict(
            conn.execute(sa.select(r.outcome, sa.func.count()).group_by(r.outcome)).tuples().all()
        )
        more = conn.scalar(sa.select(sa.func.sum(e.deliveries - 1)))
        unanswered = conn.scalar(
            sa.select(sa.func.count())
            .select_from(tables.events)
            .where(e.verdict == "matched", ~sa.exists().where(r.event == e.seq))
        )
    lost, doubled = sent - stored.keys(), [name for name, number in stored.items() if number > 1]
    facts = {
        "events": f"{len(sent)} sent, {len(acknowledged)} acknowledged, {len(lost)} lost, {len(doubled)} doubled",
        "deliveries that were repetitions": more,
        "verdicts": _counted(verdicts),
        "outcomes of reactions": _counted(outcomes),
        "what waits": waiting(service) or "nothing",
    }
    wrong = [f"waits: {line}" for line in waiting(service)]
    wrong += [f"{len(lost)} events are lost: {sorted(lost)[:5]}"] * bool(lost)
    wrong += [f"events are doubled: {doubled[:5]}"] * bool(doubled)
    wrong += [f"{len(sent - acknowledged)} events were never acknowledged"] * bool(sent - acknowledged)
    wrong += [f"{unanswered} events matched, and no image has a reaction"] * bool(unanswered)
    wrong += [f"{number} events are {name}" for name, number in verdicts.items() if name == "quarantined"]
    wrong += [f"{number} reactions are {name}" for name, number in outcomes.items() if name == "refused"]
    return facts, wrong


def _builds(service: Service, watch: Watch) -> tuple[dict[str, Any], list[str]]:
    wrong = [f"machine {name} ran twice at once" for name in watch.doubled]
    builds = service.builds(limit=100_000)
    twice = [
        key for key, times in Counter(b.key for b in builds if b.state is BuildState.SUCCEEDED).items() if times > 1
    ]
    wrong += [f"the same inputs were built twice: {key[:12]}" for key in twice]
    overlaps, again, causes = [], 0, Counter[str]()
    for build in builds:
        runs: dict[str, list[Any]] = {}
        for step in service.steps(build.id):
            runs.setdefault(step.name, []).append(step)
        for name, attempts in runs.items():
            again += len(attempts) - 1
            for one, next_one in itertools.pairwise(attempts):
                if one.ended is None or (next_one.started is not None and next_one.started < one.ended):
                    overlaps.append(f"{build.id} {name}")
            if build.state is BuildState.SUCCEEDED and attempts[-1].state is not StepState.SUCCEEDED:
                wrong.append(f"build {build.id} succeeded without its step {name}")
        if build.state is BuildState.PAUSED:
            causes[f"{build.step}: {(build.error or '').splitlines()[0][:90]}"] += 1
            if "broken" not in (build.error or "") and build.step != "configure-02-shell":
                wrong.append(f"build {build.id} of {build.image} is paused by no fault of its own: {build.error}")
        elif build.state not in (BuildState.SUCCEEDED, BuildState.SUPERSEDED, BuildState.ABORTED):
            wrong.append(f"build {build.id} of {build.image} is {build.state}: {build.error}")
    with service.database.read() as conn:
        versions = Counter(conn.execute(sa.select(tables.versions.c.build_id)).scalars())
    good = {build.id for build in builds if build.state is BuildState.SUCCEEDED}
    if versions.keys() != good:
        wrong.append(f"builds without a version, or versions without a build: {sorted(versions.keys() ^ good)}")
    wrong += [f"a step ran twice at once: {one}" for one in overlaps]
    return {
        "builds": f"{len(builds)}: {count(service)}",
        "built twice, overlapping steps, doubled machines": f"{len(twice)}, {len(overlaps)}, {len(watch.doubled)}",
        "steps that ran again after a kill": again,
        "machines that ran at once, at most": watch.most,
        "why builds are paused": _counted(causes),
    }, wrong


def _running(service: Service, paused: set[str]) -> list[str]:
    """Machines of paused builds that have not been put away."""
    return [
        build_id for build_id in sorted(paused) if service.compute.state(f"{build_id}-main") is MachineState.RUNNING
    ]


def _left(service: Service, folder: Path, before: Host, paused: set[str]) -> list[str]:
    """What is there and belongs to no paused build, no version and no cache."""
    state, now = folder / "state", Host.now(folder)
    left = [f"process {p.pid}: {' '.join(p.cmdline())[:120]}" for p in _alive(processes(folder))]
    left += [f"resource of {r.build_id}: {r.kind} {r.name}" for r in service.resources() if r.build_id not in paused]
    left += [f"mount {mount}" for mount in now.mounts - before.mounts if not any(name in mount for name in paused)]
    left += [f"loop device {loop}" for loop in now.loops - before.loops]
    left += [f"lease of {lease}" for lease in leases(service)]
    left += [f"machine {name}" for name in service.compute.list() if name.partition("-")[0] not in paused]
    for place in ("builds", "machines", "publishing"):
        names = [entry.name for entry in (state / place).glob("*") if not entry.name.startswith(".")]
        left += [f"{place}/{name}" for name in names if name.partition("-")[0] not in paused]
    kept = {version.digest for version in service.images.versions()}
    left += [f"images/{entry.name}" for entry in (state / "images").glob("[!.]*") if entry.name not in kept]
    return left


def _alive(found: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline():
                alive.append(process)
    return alive


def _outside(service: Service, folder: Path, before: Host, paused: set[str]) -> tuple[dict[str, Any], list[str]]:
    state, now = folder / "state", Host.now(folder)
    running, left = _running(service, paused), _left(service, folder, before, paused)
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in state.rglob("*"):
        if path.is_file() and not path.is_symlink():
            place = path.relative_to(state).parts[0]
            files[place] += 1
            sizes[place] += path.stat().st_blocks * 512
    with service.database.read() as conn:
        outbox = conn.scalar(sa.select(sa.func.count()).select_from(tables.outbox))
    qemus = [p for p in _alive(processes(folder)) if "qemu-system" in p.name()]
    open_resources = service.resources()
    facts = {
        "resources outstanding": f"{len(open_resources)}, of them {sum(r.build_id in paused for r in open_resources)} of paused builds",
        "machines": f"{len(list(service.compute.list()))}, of them running: {len(running)}",
        "processes": f"{len(_alive(processes(folder)))}, of them QEMU: {len(qemus)}",
        "mounts, loop devices": f"{len(now.mounts - before.mounts)}, {len(now.loops - before.loops)}",
        "leases": len(leases(service)),
        "outbox": outbox,
        "files in the state folder": ", ".join(
            f"{place}: {files[place]} ({sizes[place] >> 20} MiB)" for place in sorted(files)
        ),
    }
    wrong = [f"left: {line}" for line in left]
    wrong += [f"the machine of paused build {build_id} holds its room" for build_id in running]
    return facts, wrong


def complaints(folder: Path) -> list[str]:
    """Lines of the logs of `serve` that tell of a bug."""
    wrong = []
    for log in sorted(folder.glob("serve-*.log")):
        text = log.read_text(errors="replace")
        if _TRACEBACK in text:
            wrong.append(f"{log.name} has a traceback: {text[text.index(_TRACEBACK) :][:1500]}")
    return wrong


def _counted(values: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(values.items(), key=str)) or "none"


def shown(facts: Mapping[str, Any]) -> str:
    """The audit as a table."""
    width = max(map(len, facts))
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in facts.items())
