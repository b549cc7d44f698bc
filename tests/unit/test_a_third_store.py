"""A store that is neither of ours: nothing above the seam asks for a driver by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imageflow import config, recipe
from imageflow.builds import precheck
from imageflow.config import Config, drivers
from imageflow.errors import ConfigError, RecipeError
from imageflow.stores import targets
from imageflow.stores.directory import DirectoryStore

RECIPE = """\
images:
  - name: web
    method: dib
    dib: {elements: [debian-minimal]}
    publish: {properties: {colour: red}}
"""


class Picky(DirectoryStore):
    """As a distribution of somebody else's would bring it."""

    name = "picky"

    @classmethod
    def at(cls, config: Config, where: str) -> Config:
        if not where.startswith("shelf-"):
            raise ConfigError(f"{where!r} is no shelf")
        return dataclasses.replace(super().at(config, f"/shelves/{where}"), store=cls.name)

    def configured(self) -> None:
        raise ConfigError("there is no key to the shelf")

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        if "colour" in properties:
            raise RecipeError("publish.properties: 'colour' is not for shelves")


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    load = drivers.load

    def with_picky(kind: str, group: str, name: str, option: str = "") -> Any:
        return Picky if (kind, name) == ("store", "picky") else load(kind, group, name, option)

    monkeypatch.setattr(drivers, "load", with_picky)
    return config.load(state_dir=str(tmp_path))


def publishing(config: Config, *entries: str) -> Config:
    return dataclasses.replace(config, publish=dataclasses.replace(config.publish, targets=entries))


def test_it_says_where_a_target_is_and_what_it_lacks(configured: Config) -> None:
    [target] = targets.parse(publishing(configured, "a=picky:shelf-1"))
    assert target.store.place == ("picky", "/shelves/shelf-1")
    with pytest.raises(ConfigError, match="'a': there is no key to the shelf"):
        target.check()
    with pytest.raises(ConfigError, match="'a': 'box' is no shelf"):
        targets.parse(publishing(configured, "a=picky:box"))
    with pytest.raises(ConfigError, match="'b=picky:shelf-1' is the same place as a"):
        targets.parse(publishing(configured, "a=picky:shelf-1", "b=picky:shelf-1"))


@pytest.mark.parametrize("as_target", [True, False])
def test_what_it_refuses_is_refused_before_anything_is_built(
    configured: Config, tmp_path: Path, as_target: bool
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    [image] = recipe.load(file).images
    precheck.check(image, tmp_path, configured)
    wanted = publishing(configured, "a=picky:shelf-1")
    if not as_target:
        wanted = dataclasses.replace(configured, store="picky")
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:5: images\[0\].publish.properties: 'colour' is not for shelves"
    ):
        precheck.check(image, tmp_path, wanted)
