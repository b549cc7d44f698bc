"""The start-up cost of the command line, against OpenStack's own client."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import Result, Side, alternate, timed
from bench.site import open_site
from bench.stored import fill

BUILDS = 1000


def _command(name: str, *arguments: str) -> Callable[[], None]:
    """Runs a command of this environment to its end; it must succeed and print something."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: pip install -e '.[bench]'")

    def run() -> None:
        done = subprocess.run([path, *arguments], capture_output=True, check=True)
        assert len(done.stdout.splitlines()) > 20, done.stdout

    return run


def run(rounds: int = 9) -> list[Result]:
    """Whole processes, everything in the page cache."""
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        with open_site(Path(name)) as service:
            fill(service, BUILDS)
        state = str(service.config.state_dir)
        sides = (
            Side("imageflow --help, s", timed(_command("imageflow", "--help"))),
            Side(
                f"imageflow build list, {BUILDS} builds, s",
                timed(_command("imageflow", "--state-dir", state, "build", "list")),
            ),
            Side("openstack --help, s", timed(_command("openstack", "--help"))),
        )
        alternate(sides, rounds)
    ours, listing, other = (side.median for side in sides)
    return [
        Result("imageflow --help against openstack --help", ours, other, "s", 0.25),
        Result(f"imageflow build list ({BUILDS:,} builds) against openstack --help", listing, other, "s", 0.5),
    ]
