"""A year in an hour: events and builds of a year through the real inbox, conductor and janitor, with a clock that jumps.

Shows that the database, the state folder and the memory of the process stop growing once everything has reached its
retention. `IMAGEFLOW_YEAR=EVENTS,BUILDS` sets how many (300000,20000); `IMAGEFLOW_YEAR_DATABASE=URL` takes a database
server, which has a clock of its own: announcements, which age by it, are left out there.
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy import Connection
from taskflow.patterns import linear_flow

from bench.measure import Result
from bench.site import submit
from imageflow import config
from imageflow.builds.conductor import Conductor
from imageflow.builds.janitor import Janitor
from imageflow.events.bound import Bound
from imageflow.events.inbox import SqlInbox
from imageflow.model import Artifact, Event
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.elapsed import Ages
from imageflow.persistence.tables import metadata
from imageflow.rebuilds.forgetting import forget
from imageflow.rebuilds.matching import match_waiting
from imageflow.service import Service
from imageflow.tasks.base import Task

DAY = 86400.0
DAYS = 365
REACHED = (
    180  # the day from which on nothing grows: 90 days of builds, 60 of what is remembered, and what goes with them
)
_SIGNED = 10  # one of so many events is a webhook's, with a signature to remember
_BRANCHES = 40  # that live at the same time; each day one is made and one deleted
_OPTIONS = """[events]
proofs = {proofs}
[triggers]
max_per_minute = 100000
"""
_ANNOUNCE = "[announce]\ntargets = http\nhttp_url = http://127.0.0.1:9/\n"
_RECIPE = """images:
  - name: nightly
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: git.push, where: {repository: followed}}]
"""


class Tiny(Task):
    """Stores a version of a few bytes, and says something in the log."""

    step = "tiny"
    default_provides = "publication"

    def execute(self, build: Any, config: Any, store: Any, control: Any, log: Any) -> dict[str, Any]:
        for line in range(20):
            log(f"line {line} of a harmless build")
        config.builds_dir.mkdir(parents=True, exist_ok=True)
        file = config.builds_dir / f"{build.id}.raw"
        file.write_bytes(build.id.encode())
        digest = hashlib.sha256(build.id.encode()).hexdigest()
        artifact = Artifact(f"{build.image}.raw", "raw", file.stat().st_size, digest)
        ref = store.add([(file, artifact)], build_id=build.id, control=control, move=True)
        return {
            "store": ref.store,
            "digest": ref.digest,
            "path": ref.path,
            "artifacts": [asdict(one) for one in ref.artifacts],
            "image": build.recipe["name"],
            "packages": None,
            "properties": {},
            "content": digest,
        }


def tiny() -> linear_flow.Flow:
    """One step."""
    return linear_flow.Flow("tiny").add(Tiny())


class Clock:
    """Replaces this process's clocks by ones that can be set ahead, all by the same: for imageflow, time has passed."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = {name: getattr(time, name) for name in ("time", "monotonic", "clock_gettime")}

    @contextmanager
    def worn(self) -> Iterator[None]:
        """In the block the clocks are ours."""
        for name, real in self._real.items():
            setattr(time, name, self._shifted(real))
        try:
            yield
        finally:
            for name, real in self._real.items():
                setattr(time, name, real)

    def _shifted(self, real: Callable[..., float]) -> Callable[..., float]:
        return lambda *which: real(*which) + self.ahead


@dataclass(frozen=True, slots=True)
class Size:
    """What a year has left on one day."""

    day: int
    database: float  # MiB
    folder: float  # MiB, without the database
    files: int
    memory: float  # MiB
    rows: dict[str, int]


def run() -> list[Result]:
    """See the module."""
    wanted = os.environ.get("IMAGEFLOW_YEAR", "300000,20000")
    count, made = (int(number) for number in wanted.split(","))
    folder = Path(tempfile.mkdtemp(prefix="imageflow-year-"))
    try:
        sizes = _year(folder, count, made, os.environ.get("IMAGEFLOW_YEAR_DATABASE", ""))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [_flat(sizes, what, unit) for what, unit in (("database", "MiB"), ("folder", "MiB"), ("memory", "MiB"))] + [
        _flat_rows(sizes)
    ]


def _year(folder: Path, count: int, made: int, url: str) -> list[Size]:
    settings = _configured(folder, url)
    with Database(settings.database) as database:
        schema.upgrade(database)
    clock, began = Clock(), time.monotonic()
    sizes: list[Size] = []
    with Service.open(settings) as service, clock.worn():
        (folder / "recipe.yaml").write_text(_RECIPE)
        service.recipes.add(folder / "recipe.yaml")
        inbox = SqlInbox(service.database, bound=Bound.of(settings, service.database))
        janitor = Janitor(service)
        ages = Ages(service.database, settings.host)
        for day in range(DAYS):
            _events(service, inbox, _share(count, day), day)
            _builds(service, _share(made, day))
            inbox.flush()
            clock.ahead += DAY - 1
            for _ in range(3):  # a real day has a thousand; each of these has as much to do as all of them
                janitor.round()
            forget(settings, service.database, ages)
            if day % 15 == 14 or day == DAYS - 1:
                sizes.append(_size(service, folder / "state", day + 1))
                print(_told(sizes[-1], time.monotonic() - clock.ahead - began), flush=True)
    return sizes


def _configured(folder: Path, url: str) -> config.Config:
    file = folder / "imageflow.conf"
    lines = f"[DEFAULT]\nstate_dir = {folder}/state\n[conductor]\npoll = 0.05\nmax_builds = 2\n"
    lines += f"[database]\nconnection = {url}\n" if url else ""
    lines += _OPTIONS.format(proofs=60 * DAY) + ("" if url else _ANNOUNCE)
    elements = Path(__file__).parents[1] / "tests" / "recipes" / "elements"
    file.write_text(f"{lines}[dib]\nelements_path = {elements}\n")
    return config.load([str(file)])


def _share(whole: int, day: int) -> int:
    """Of the year's, so many on this day."""
    return whole * (day + 1) // DAYS - whole * day // DAYS


def _events(service: Service, inbox: SqlInbox, count: int, day: int) -> None:
    """Pushes, a few to a followed repository; a branch is made and one deleted; some requests are refused."""
    dice = random.Random(day)
    signed = count // _SIGNED
    pushes = [_push(day, number, dice) for number in range(count)]
    for push in pushes[:signed]:
        inbox.receive([push], listener="http", proof=hashlib.sha256(push.id.encode()).hexdigest())
    for start in range(signed, count, 100):
        inbox.receive(pushes[start : start + 100], listener="amqp")
    inbox.receive([_gone(day)], listener="http")
    for number in range(50):
        inbox.refuse("events" if number % 2 else f"made-up-{day}-{number}", "event.unauthorized")
    match_waiting(service.database)
    for waiting in service.events.rebuilds():
        service.events.drop(waiting.image)


def _push(day: int, number: int, dice: random.Random) -> Event:
    followed = number % 100 == 0
    branch = f"feature-{day - dice.randrange(min(_BRANCHES, day + 1))}"
    data = {
        "repository": "followed" if followed else f"other-{number % 50}",
        "owner": "acme",
        "ref": f"refs/heads/{branch}",
        "before": None,
        "after": f"{dice.getrandbits(160):040x}",
        "message": "x" * dice.randrange(200, 2000),
    }
    return Event("https://git.example/acme", f"{day}-{number}", "git.push", data["ref"], time.time(), data)


def _gone(day: int) -> Event:
    ref = f"refs/heads/feature-{day - _BRANCHES}"
    data = {"repository": "followed", "owner": "acme", "ref": ref, "after": "0" * 40}
    return Event("https://git.example/acme", f"gone-{day}", "git.delete", ref, time.time(), data)


def _builds(service: Service, count: int) -> None:
    for _ in range(count):
        submit(service, [], image="harmless", factory=f"{tiny.__module__}.tiny")
    Conductor(service).run(until=lambda: service.board.job_count == 0)


def _size(service: Service, state: Path, day: int) -> Size:
    gc.collect()
    with service.database.read() as conn:
        rows = {
            name: conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }
        held = _database_size(conn)
    files = [path for path in state.rglob("*") if path.is_file() and not path.name.startswith("imageflow.db")]
    used = sum(path.stat().st_blocks * 512 for path in files)
    memory = psutil.Process().memory_info().rss
    mib = 2**20
    return Size(day, held / mib, used / mib, len(files), memory / mib, rows)


def _database_size(conn: Connection) -> float:
    if conn.dialect.name == "sqlite":
        pages, size = (conn.exec_driver_sql(f"PRAGMA {of}").scalar_one() for of in ("page_count", "page_size"))
        return float(pages * size)
    if conn.dialect.name == "postgresql":
        return float(conn.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    query = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()"
    return float(conn.exec_driver_sql(query).scalar_one())


def _told(size: Size, seconds: float) -> str:
    rows = ", ".join(f"{name} {count}" for name, count in size.rows.items() if count)
    return (
        f"  day {size.day:3}: database {size.database:6.1f} MiB, folder {size.folder:6.1f} MiB in {size.files} files, "
        f"memory {size.memory:5.0f} MiB ({seconds:.0f} s)\n    {rows}"
    )


def _halves(sizes: list[Size]) -> tuple[list[Size], list[Size]]:
    """After everything reached its retention: the first half of the days that are left, and the second."""
    late = [size for size in sizes if size.day >= REACHED]
    return late[: len(late) // 2], late[len(late) // 2 :]


def _flat(sizes: list[Size], what: str, unit: str) -> Result:
    before, after = ([getattr(size, what) for size in half] for half in _halves(sizes))
    name = f"a year: {what} in its last months against the months before"
    return Result(name, max(after), max(before), unit, 1.1, notes=(f"at the end {after[-1]:.1f} {unit}",))


def _flat_rows(sizes: list[Size]) -> Result:
    """The table that grew most."""
    before, after = _halves(sizes)
    grown = {
        name: (max(size.rows[name] for size in after), max(size.rows[name] for size in before) or 1)
        for name in sizes[-1].rows
        if max(size.rows[name] for size in after) > 100
    }
    name, (ours, theirs) = max(grown.items(), key=lambda one: one[1][0] / one[1][1])
    return Result(f"a year: rows of the table that grew most ({name})", ours, theirs, "rows", 1.1)
