"""A stand-in for Nova, and the driver with short waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.compute.nova.driver import NovaCompute
from tests.servers.nova import Nova, configured, nova_server


@pytest.fixture
def nova() -> Iterator[Nova]:
    with nova_server() as server:
        yield server


@pytest.fixture
def compute(nova: Nova, tmp_path: Path) -> NovaCompute:
    return NovaCompute(configured(nova, tmp_path))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again, and a snapshot is looked for, sooner than Nova would like it."""
    monkeypatch.setattr("imageflow.compute.nova.servers.AGAIN", 0.5)
    monkeypatch.setattr("imageflow.compute.nova.snapshots.LATE", 0.3)
    monkeypatch.setattr("imageflow.compute.nova.snapshots.POLL", 0.1)
