"""Runs the dib flow by a plain TaskFlow engine, with everything that a conductor would inject."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import taskflow.engines
from taskflow.engines.base import Engine

from imageflow import config as configuration
from imageflow import inputs, recipe
from imageflow.config import Config
from imageflow.flows.dib import build_by_dib
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from imageflow.model import Build, BuildState, ResourceKind
from imageflow.stores.directory import DirectoryStore

RECIPES = Path(__file__).parent.parent / "recipes"


class Ledger:
    """Remembers what is open, in the order in which it was opened."""

    def __init__(self) -> None:
        self.rows: list[tuple[ResourceKind, str]] = []
        self.seen: list[ResourceKind] = []

    def open(self, kind: ResourceKind, name: str) -> None:
        if (kind, name) not in self.rows:
            self.rows.append((kind, name))
        self.seen.append(kind)

    def close(self, kind: ResourceKind, name: str) -> None:
        if (kind, name) in self.rows:
            self.rows.remove((kind, name))


@dataclass
class Run:
    """One build and what its tasks are given."""

    build: Build
    config: Config
    secrets: Mapping[str, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    control: Control = field(default_factory=Control)
    progress: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.control = Control(time.monotonic() + 3600, build_id=self.build.id)
        self.log = BuildLog(self.config.logs_dir / f"{self.build.id}.log")
        self.store = DirectoryStore(self.config)

    def secret(self, name: str) -> str:
        self.log.mask(self.secrets[name])
        return self.secrets[name]

    def given(self) -> dict[str, Any]:
        progress: Callable[[float, str], None] = lambda done, phase: self.progress.append((done, phase))  # noqa: E731
        return {
            "build": self.build,
            "config": self.config,
            "log": self.log,
            "progress": progress,
            "control": self.control,
            "ledger": self.ledger,
            "store": self.store,
            "secret": self.secret,
        }

    def engine(self, **options: Any) -> Engine:
        """A serial engine of the flow; `options` are TaskFlow's."""
        engine = taskflow.engines.load(build_by_dib(), engine="serial", **options)
        engine.storage.inject(self.given(), transient=True)
        return engine

    def run(self) -> dict[str, Any]:
        """-> the publication; what a task raised is raised as TaskFlow wraps it."""
        engine = self.engine()
        engine.run()
        publication: dict[str, Any] = engine.storage.fetch("publication")
        return publication

    @property
    def work(self) -> Path:
        return self.config.builds_dir / self.build.id

    def said(self) -> str:
        return self.log.path.read_text() if self.log.path.exists() else ""


def _changed(before: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged, all else is replaced."""
    after = dict(before)
    for key, value in changes.items():
        merge = isinstance(value, Mapping) and isinstance(before.get(key), dict)
        after[key] = _changed(before[key], value) if merge else value
    return after


def prepare(file: Path, state: Path, *, secrets: Mapping[str, str] | None = None, **changes: Any) -> Run:
    """A run of the first image of a recipe file; `changes` go into its canonical recipe."""
    config = configuration.load(state_dir=str(state))
    [image, *_] = recipe.load(file).images
    canonical = _changed(image.canonical(), changes)
    image = recipe.ImageRecipe.from_json(canonical)
    build = Build(
        id=uuid.uuid4().hex[:12],
        image=image.name,
        method="dib",
        state=BuildState.RUNNING,
        reason="test",
        key="0" * 64,
        flow=str(uuid.uuid4()),
        created=time.time(),
        recipe=canonical,
        folder=str(file.parent),
        pins=inputs.pin(image, file.parent, config),
    )
    return Run(build, config, secrets or {})
