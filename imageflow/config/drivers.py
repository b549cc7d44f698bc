"""Loads drivers by name from entry points; only the requested one is imported."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import stevedore

from imageflow.errors import ConfigError


def load(kind: str, group: str, name: str, option: str = "") -> Any:
    """The factory of a driver; no other is imported. `option`: the setting that names it, [KIND] driver by default."""

    def fail(_manager: Any, _point: Any, error: BaseException) -> None:
        raise ConfigError(
            f"the {kind} driver {name!r} can't be loaded: {error}", hint="install what it needs"
        ) from error

    found = stevedore.NamedExtensionManager(
        group, [name], on_load_failure_callback=fail, on_missing_entrypoints_callback=lambda names: None
    )
    if name not in found.names():
        there = ", ".join(sorted(point.name for point in importlib.metadata.entry_points(group=group)))
        raise ConfigError(
            f"there is no {kind} driver {name!r}", hint=f"there are {there}; see {option or f'[{kind}] driver'}"
        )
    return found[name].plugin
