"""A forge with one recipe, and yards that register from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
