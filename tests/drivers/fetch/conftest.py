"""A server of files that misbehaves as told, and where downloads go to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from imageflow import config as configuration
from imageflow.config import Config
from tests.drivers.fetch.downloads import DATA
from tests.drivers.fetch.web import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(DATA)) as served:
        yield served


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return configuration.load(state_dir=str(tmp_path / "state"))


@pytest.fixture
def hasty_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the seconds that a request may wait for a byte have to do."""
    send = HTTPAdapter.send

    def sent(self: HTTPAdapter, *words: Any, timeout: tuple[float, float], **more: Any) -> requests.Response:
        connect, silence = timeout
        return send(self, *words, timeout=(connect, silence / 100), **more)

    monkeypatch.setattr(HTTPAdapter, "send", sent)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def small_disk(config: Config) -> Iterator[Path]:
    """Downloads go to a disk that has room for the data, and for little more."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = config.cache_dir / "downloads"
    folder.mkdir(parents=True)
    size = len(DATA) + (64 << 10)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "imageflow-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
