"""A forge with one recipe, a yard that registers from it, and what following it has made of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow import recipe_events
from imageflow.control import Control
from imageflow.model import Event
from tests.small.forge import Forge
from tests.small.yard import Yard, open_yard


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge(tmp_path / "forge")
    made.image("web")
    made.push()
    return made


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    url = f"sqlite:///{tmp_path}/state/imageflow.db"
    with open_yard(tmp_path / "yard", url, monkeypatch) as yard:
        yield yard


@pytest.fixture
def any_yard(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """On each kind of database."""
    with open_yard(tmp_path / "yard", database_url, monkeypatch) as yard:
        yield yard


def settle(yard: Yard) -> list[str]:
    """Let everything happen; -> the images that builds began of, in order."""
    before = {build.id for build in yard.service.builds(limit=1000)}
    yard.settle()
    return [build.image for build in yard.service.builds(limit=1000)[::-1] if build.id not in before]


def look(yard: Yard, name: str) -> list[str]:
    return yard.service.hosted.look(name, Control())


def changes(yard: Yard) -> list[Event]:
    return yard.service.events.select(type=recipe_events.CHANGED)[::-1]
