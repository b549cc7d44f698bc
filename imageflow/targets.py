"""Publication targets, as [publish] targets names them: NAME=DRIVER:WHERE, each a store of its own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from imageflow import drivers
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable
from imageflow.stores import Store

OPTION = "[publish] targets"
_ENTRY = re.compile(r"(?P<name>[^=]*?)\s*=\s*(?P<driver>[^:]*?)\s*:\s*(?P<where>.*)", re.DOTALL)
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_FORMS = "NAME=glance:CLOUD, NAME=glance:CLOUD/REGION or NAME=directory:PATH"
_PATIENCE = 20.0  # seconds within one attempt: the next attempt comes anyway, and says meanwhile what is wrong


@dataclass(frozen=True, slots=True)
class Target:
    """One place that every version is published to."""

    name: str
    driver: str
    config: Config  # as its store's driver takes it

    @property
    def folder(self) -> Path | None:
        """Of a target in a file system."""
        return self.config.store_path if self.driver == "directory" else None

    @property
    def _place(self) -> tuple[str, ...]:
        if self.driver == "glance":
            cloud = self.config.openstack
            return (self.driver, cloud.cloud or "", cloud.region or "")
        return (self.driver, os.path.realpath(self.config.store_path))

    def open(self) -> Store:
        """Its store; nothing of it is reached yet. Raises ConfigError, naming the target: no such driver, or no such cloud."""
        try:
            store: Store = drivers.load("store", "imageflow.stores", self.driver, OPTION)(self.config)
            if self.driver == "glance":
                from imageflow.openstack import Cloud

                _ = Cloud(self.config.openstack).session
        except ConfigError as error:
            raise ConfigError(f"{OPTION}: {self.name!r}: {error.message}", hint=error.hint) from error
        return store

    def look(self, *, used: bool) -> None:
        """Raise Unavailable when its folder is not there, or was `used` and is another one now: a mount that is missing.

        What is written below a mount point, and what is not found there, would be wrong.
        """
        folder = self.folder
        if folder is None:
            return
        from imageflow.stores.directory import LOCK

        if not folder.is_dir():
            raise Unavailable(f"target {self.name}: {folder} is no folder", hint="mount it, or make it")
        if used and not (folder / LOCK).exists():
            raise Unavailable(
                f"target {self.name}: {folder} is not what it was, nothing was ever stored in it",
                hint=f"mount it; if all of it is gone for good: touch {folder / LOCK}",
            )


def parse(config: Config) -> tuple[Target, ...]:
    """The targets of a configuration, in its order; raises ConfigError, naming the entry."""
    found: dict[str, Target] = {}
    places = {Target("", config.store, config)._place: "[store]"}
    for entry in config.publish.targets:
        target = _target(entry, config)
        if target.name in found:
            raise ConfigError(f"{OPTION}: {entry!r}: there is another target {target.name!r}", hint="names are unique")
        if (there := places.setdefault(target._place, target.name)) != target.name:
            raise ConfigError(f"{OPTION}: {entry!r} is the same place as {there}", hint="take one of them out")
        found[target.name] = target
    return tuple(found.values())


def names(config: Config) -> tuple[str, ...]:
    """Their names; raises ConfigError."""
    return tuple(target.name for target in parse(config))


def _target(entry: str, config: Config) -> Target:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ConfigError(f"{OPTION}: {entry!r} is not understood", hint=f"{_FORMS}, separated by commas")
    name, driver, where = match["name"], match["driver"], match["where"]
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{OPTION}: {entry!r}: {name!r} can't be its name", hint="a-z, 0-9 and '-', 64 of them at most"
        )
    if not driver or not where:
        raise ConfigError(f"{OPTION}: {entry!r} does not say where", hint=_FORMS)
    if driver == "glance":
        cloud, _, region = where.partition("/")
        if not cloud or "/" in region:
            raise ConfigError(f"{OPTION}: {entry!r} names no cloud", hint=_FORMS)
        reached = replace(
            config.openstack,
            cloud=cloud,
            region=region or None,
            patience=min(config.openstack.patience, _PATIENCE),
        )
        return Target(name, driver, replace(config, store=driver, openstack=reached))
    if not os.path.isabs(where):
        raise ConfigError(f"{OPTION}: {entry!r}: {where!r} is no absolute path", hint=_FORMS)
    return Target(name, driver, replace(config, store=driver, store_path=Path(where)))
