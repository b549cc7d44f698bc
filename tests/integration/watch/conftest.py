"""A site whose inputs a watcher looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small.polled import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", settings="[watch]\nevery = 1")
