"""Wants: how soon one that is built already is answered over HTTP, how many a second, and that equal ones are one build."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from bench.events import ROOT, address_of
from bench.measure import Result
from bench.site import write_config
from imageflow import config
from imageflow.service import Service

CLIENTS = 16
ASKED = 1000
ENTRY = """
image:
  method: dib
  dib: {elements: [tiny], skip-base: true, environment: {DIB_JOURNAL_SIZE: "4"}}
"""
FILES = [{"path": f"/srv/{number}", "content": f"{number}\n"} for number in range(12)]


class Clients:
    """Each thread has a connection of its own, as a program has."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._mine = threading.local()

    def put(self, name: str, files: list[dict[str, str]], wait: int = 0) -> dict[str, Any]:
        """Ask for an image with these files."""
        if not hasattr(self._mine, "session"):
            self._mine.session = requests.Session()
            self._mine.session.headers["X-Auth-Token"] = self._token
        wanted = {"os": "tiny", "custom_files": files}
        answer = self._mine.session.put(
            f"{self._url}/v1/requests/{name}", json={"wanted": wanted}, params={"wait": wait}, timeout=90
        )
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[Clients, Service]]:
    """A real `imageflow serve` with a catalog."""
    file = write_config(folder, poll=0.25)
    (folder / "catalog").mkdir()
    (folder / "catalog" / "tiny.yaml").write_text(ENTRY)
    options = (
        f"[catalog]\ndib = true\npath = {folder / 'catalog'}\n[dib]\nelements_path = {ROOT}/tests/recipes/elements\n"
    )
    file.write_text(file.read_text() + options + "[api]\nrate = 1000000/minute\n")
    with Service.open(config.load([str(file)])) as service, (folder / "serve.log").open("w") as log:
        token, _ = service.tokens.create("bench", "member", project="default", life=3600.0)
        argv = [sys.executable, "-m", "imageflow.cli", "--config-file", str(file), "serve", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            yield Clients(address_of(folder / "serve.log"), token), service
        finally:
            process.terminate()
            process.wait(60)


def run() -> list[Result]:
    """Against a server that has nothing else to do; needs root, as it really builds one image."""
    with tempfile.TemporaryDirectory() as name, _serving(Path(name)) as (clients, service):

        def ask(number: int) -> str:
            mixed = random.Random(number).sample(FILES, len(FILES))
            return str(clients.put(f"stack-{number}", mixed)["build_id"])

        with ThreadPoolExecutor(CLIENTS) as pool:
            made = set(pool.map(ask, range(ASKED)))
        builds = len(service.builds(limit=ASKED))
        state = "building"
        while state == "building":
            state = clients.put("stack-0", FILES, wait=60)["state"]
        assert state == "ready", state
        taken = []
        for number in range(200):
            began = time.perf_counter()
            clients.put(f"later-{number}", FILES)
            taken.append(time.perf_counter() - began)
        first, again = (_rate(clients) for _ in range(2))
    taken.sort()
    new = f"under names that are new, each a transaction: {first:.0f}"
    note = f"one after the other: {taken[0] * 1000:.1f} … {taken[-1] * 1000:.1f} ms"
    wrong = "" if len(made) == builds == 1 else f"{builds} builds, {len(made)} ids"
    return [
        Result(f"{ASKED} equal wants of {CLIENTS} clients: builds", builds, 1.0, "", 1.0, failed=wrong),
        Result("a want that is built, p50 (goal in ms)", statistics.median(taken) * 1000, 1.0, "ms", 50, notes=(note,)),
        Result(f"requests a second, {CLIENTS} clients", again, 1.0, "/s", 200, at_least=True, notes=(new,)),
    ]


def _rate(clients: Clients) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: clients.put(f"many-{number}", FILES), range(ASKED)))
    return ASKED / (time.perf_counter() - began)
