"""Publication targets from [publish] targets: NAME=DRIVER:WHERE, each with its own store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from imageflow import stores
from imageflow.config import Config
from imageflow.errors import ConfigError
from imageflow.stores import Store

OPTION = "[publish] targets"
_ENTRY = re.compile(r"(?P<name>[^=]*?)\s*=\s*(?P<driver>[^:]*?)\s*:\s*(?P<where>.*)", re.DOTALL)
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_FORMS = "NAME=glance:CLOUD, NAME=glance:CLOUD/REGION or NAME=directory:PATH"


@dataclass(frozen=True, slots=True)
class Target:
    """One place that every version is published to."""

    name: str
    config: Config  # the configuration for its store's driver
    store: Store  # not connected yet

    def check(self) -> None:
        """Raise ConfigError, naming the target, when its store is not configured, e.g. an unknown cloud."""
        with _naming(repr(self.name)):
            self.store.configured()


def parse(config: Config) -> tuple[Target, ...]:
    """The configured targets, in order; raises ConfigError, naming the entry."""
    found: dict[str, Target] = {}
    places: dict[tuple[str, ...], str] = {}
    for entry in config.publish.targets:
        places = places or {stores.store(config).place: "[store]"}
        target = _target(entry, config)
        if target.name in found:
            raise ConfigError(f"{OPTION}: {entry!r}: there is another target {target.name!r}", hint="names are unique")
        if (there := places.setdefault(target.store.place, target.name)) != target.name:
            raise ConfigError(f"{OPTION}: {entry!r} is the same place as {there}", hint="take one of them out")
        found[target.name] = target
    return tuple(found.values())


def names(config: Config) -> tuple[str, ...]:
    """The names of the targets; raises ConfigError."""
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
    with _naming(repr(name)):
        its = stores.driver(driver, OPTION).at(config, where)
        return Target(name, its, stores.store(its))


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{OPTION}: {what}: {error.message}", hint=error.hint or _FORMS) from error
