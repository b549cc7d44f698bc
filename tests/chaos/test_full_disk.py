"""A full disk pauses the build with a clear error, and it goes on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.servers.services import require
from tests.small.site import Site


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder with 24 MiB of room."""
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", state], capture_output=True, text=True)
    require("a tmpfs (root)", mounted.stderr if mounted.returncode else "")
    yield state
    subprocess.run(["umount", state], check=True)


def test_a_step_that_fills_the_disk(tmp_path: Path, small_disk: Path) -> None:
    with Site(tmp_path) as site:
        site.trace.set("fill-boot")
        build = site.build()
        worker = site.worker()
        paused = site.await_state(build, BuildState.PAUSED)
        assert paused.error is not None and "no space left" in paused.error
        assert paused.hint == "free some space, then resume the build"
        assert worker.poll() is None  # the conductor lives on

        (site.config.builds_dir / f"{build.id}-boot" / "fill").unlink()
        site.trace.unset("fill-boot")
        site.service.resume(build.id)
        site.await_state(build, BuildState.SUCCEEDED)
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()
        worker.terminate()
        worker.wait(20)
        (small_disk / "reserve").unlink(missing_ok=True)


def test_no_room_even_to_queue(tmp_path: Path, small_disk: Path) -> None:
    """Nothing is half queued, and the error says where the room is missing."""
    from imageflow.errors import NoSpace

    with Site(tmp_path) as site:
        assert site.service.builds() == []  # opens the database: SQLite needs some room for that, too
        fill = small_disk / "fill"
        with fill.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(1 << 16))
        with pytest.raises(NoSpace, match="no space for the database"):
            for _ in range(1000):
                site.build()
        count = len(site.service.builds(limit=2000))
        assert site.service.board.job_count == count
        fill.unlink()
        site.build()
        assert site.service.board.job_count == count + 1
