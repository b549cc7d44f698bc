"""A file on a web server that misbehaves as told, downloading it, and the part of it that is there already."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

from imageflow import fetch
from imageflow.config import Config
from imageflow.host.control import Control
from tests.drivers.fetch.web import Site

MIB = 1 << 20


DATA = random.Random(7).randbytes(3 * MIB + 12345)


SHA = hashlib.sha256(DATA).hexdigest()


OTHER = random.Random(8).randbytes(3 * MIB)


class Impatient(Control):
    """Who downloads is stopped by it, and waits by it between two attempts: not half a minute, but a moment."""

    def wait(self, seconds: float) -> None:
        super().wait(min(seconds, 0.02))


def get(site: Site, config: Config, said: list[str], sha256: str = SHA, control: Control | None = None) -> Path:
    return fetch.fetch(site.url, sha256, config=config, control=control or Impatient(), log=said.append)


def part(config: Config) -> Path:
    return config.cache_dir / "downloads" / f"{SHA}.part"


def leave_part(config: Config, data: bytes) -> None:
    part(config).parent.mkdir(parents=True, exist_ok=True)
    part(config).write_bytes(data)


def await_part(config: Config) -> None:
    deadline = time.monotonic() + 10
    while (not part(config).exists() or part(config).stat().st_size <= MIB) and time.monotonic() < deadline:
        time.sleep(0.02)
