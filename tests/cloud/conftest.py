"""What modules of tests on the cloud share, beside fixtures.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.builds import engine
from tests.cloud.bases import Bases
from tests.cloud.cloud import Cloud


@pytest.fixture
def bases(cloud: Cloud, tmp_path: Path) -> Iterator[Bases]:
    found = Bases(cloud, tmp_path)
    yield found
    found.remove()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds that are asked for here store something small, and make no machine."""
    monkeypatch.setattr(engine, "factory_of", lambda method: "tests.small.quick.quick")
