"""A file on a web server that misbehaves as told, downloading it, and the part of it that is there already."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow import fetch
from imageflow.config import Config
from imageflow.control import Control
from imageflow.fetch import transfer
from tests.drivers.web import Site, serving

MIB = 1 << 20


DATA = random.Random(7).randbytes(3 * MIB + 12345)


SHA = hashlib.sha256(DATA).hexdigest()


OTHER = random.Random(8).randbytes(3 * MIB)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(DATA)) as served:
        yield served


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 0.01)
    return configuration.load(state_dir=str(tmp_path / "state"))


@pytest.fixture
def said() -> list[str]:
    return []


def get(site: Site, config: Config, said: list[str], sha256: str = SHA, control: Control | None = None) -> Path:
    return fetch.fetch(site.url, sha256, config=config, control=control or Control(), log=said.append)


def part(config: Config) -> Path:
    return config.cache_dir / "downloads" / f"{SHA}.part"


def leave_part(config: Config, data: bytes) -> None:
    part(config).parent.mkdir(parents=True, exist_ok=True)
    part(config).write_bytes(data)


def await_part(config: Config) -> None:
    deadline = time.monotonic() + 10
    while (not part(config).exists() or part(config).stat().st_size <= MIB) and time.monotonic() < deadline:
        time.sleep(0.02)
