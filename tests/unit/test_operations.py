"""doc/operations.md tells what bounds everything that is kept: it names all of it, real options, and their real defaults."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow import fetch
from imageflow.config import Config, list_opts
from imageflow.events import door
from imageflow.fetch import git
from imageflow.host.control import Control
from imageflow.persistence import flowstore, schema
from tests.small.forge import Forge
from tests.small.yard import open_yard

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "doc" / "operations.md"
OPTION = re.compile(r"\[(\w+)\] (\w+)")
AMOUNT = re.compile(r"([\d.]+) ?(days|h|min|s|GiB|MiB|KiB)?")
UNITS = {"days": 86400.0, "h": 3600.0, "min": 60.0}


@dataclass(frozen=True)
class Row:
    """A row of one of the tables."""

    what: str
    bound: str
    options: tuple[tuple[str, str], ...]
    defaults: tuple[str, ...]
    noticed: str

    @property
    def names(self) -> set[str]:
        return set(re.findall(r"`([^`]+)`", self.what))


def rows(title: str) -> Iterator[Row]:
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 3, f"there is no table below {title!r}"
    for line in lines[2:]:
        what, bound, option, default, noticed = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        options = tuple((match[1], match[2]) for match in OPTION.finditer(option))
        defaults = tuple(part.strip() for part in default.split(",")) if options else ()
        yield Row(what, bound, options, defaults, noticed)


def named(title: str) -> set[str]:
    return set().union(*(row.names for row in rows(title)))


ALL = [row for title in ("The database", "The state folder", "Queues") for row in rows(title)]
DEFAULTS = {
    (group, option.dest): option.default for group, options in list_opts() for option in options if group != "DEFAULT"
}


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.what[:30])
def test_each_has_a_bound_real_options_and_their_real_defaults(row: Row) -> None:
    assert row.bound and row.noticed
    for option in row.options:
        assert option in DEFAULTS, f"there is no option {option}"
    real = [DEFAULTS[option] for option in row.options]
    assert len(row.defaults) == len(real), (row.defaults, real)
    for told, default in zip(row.defaults, real, strict=True):
        assert meant(told, default) == default, f"{row.what}: {told!r} is not the default {default!r}"


def meant(told: str, default: object) -> object:
    """The value in the table, as the option has it."""
    if not told:
        return None if default is None else type(default)()
    match = AMOUNT.fullmatch(told)
    if match is None or isinstance(default, str):
        return told
    return float(match[1]) * UNITS.get(match[2] or "", 1.0)


def test_what_is_named_elsewhere_on_the_page_exists() -> None:
    for group, option in OPTION.findall(PAGE.read_text()):
        assert (group, option) in DEFAULTS, f"there is no option [{group}] {option}"


def test_each_table_of_the_schema_is_there_and_no_other() -> None:
    assert named("The database") == {*flowstore.metadata.tables, schema.VERSION_TABLE}


def entries(state: Path) -> set[str]:
    """What is in a state folder, as the table names it."""
    found = set()
    for path in state.iterdir():
        if path.name == "cache":
            found |= {f"cache/{below.name}" for below in path.iterdir()}
        elif not path.name.startswith("imageflow.db-"):  # SQLite's own
            found.add(f"{path.name}/" if path.is_dir() else path.name)
    return found


RECIPE = """
images:
  - name: web
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: git.push}]
"""


def test_a_used_state_folder_holds_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_yard(tmp_path, "", monkeypatch) as yard:
        site = yard.site
        yard.register(RECIPE)
        yard.push()
        assert yard.settle() == ["web"]
        door.token(site.config)
        input = tmp_path / "input"
        input.write_text("x")
        fetch.local(input, config=site.config, control=Control())
        forge = Forge(tmp_path / "forge")
        forge.image("web")
        git.check_out(site.config, forge.url, "refs/heads/main", forge.push(), control=Control())
        found = entries(site.config.state_dir)
    assert {"imageflow.db", "logs/", "images/", "checkouts/", "events-token"} <= found
    assert found <= named("The state folder")


def test_each_folder_of_the_configuration_is_there(tmp_path: Path) -> None:
    """Also those that only a machine, or a cloud, makes."""
    config = configuration.load(state_dir=str(tmp_path))
    paths = {name: getattr(config, name) for name in dir(Config) if isinstance(getattr(Config, name, None), property)}
    paths |= {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    below = {
        str(path.relative_to(config.state_dir))
        for path in paths.values()
        if isinstance(path, Path) and path != config.state_dir and path.is_relative_to(config.state_dir)
    }
    told = {name.rstrip("/") for name in named("The state folder")}
    assert len(below) >= 8
    assert below - {"cache"} <= told, "and what is in the cache is checked below"


MADE = re.compile(r"(state_dir|cache_dir|_config\.state_dir) / \"([\w.-]+)\"")


def test_what_the_code_makes_below_the_state_folder_and_the_cache_is_there() -> None:
    made = set()
    for file in (ROOT / "imageflow").rglob("*.py"):
        for folder, name in MADE.findall(file.read_text()):
            made.add(f"cache/{name}" if folder == "cache_dir" else name)
    told = {name.rstrip("/") for name in named("The state folder")}
    assert {"reserve", "cache/downloads", "publishing"} <= made
    assert made - {"cache"} <= told
