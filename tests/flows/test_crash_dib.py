"""kill -9 of the worker at every boundary and inside every step of the dib flow, on real disk-image-create runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.builds.engine import outline
from imageflow.host import removal
from imageflow.host.control import Control
from imageflow.model import Build, BuildState
from tests.small.site import Site

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
STEPS = [name for name, _title in outline("dib", {}).steps]
INSIDE = {"build-disk": (0.5, 2.0, 3.5, 5.0), "finish-outputs": (0.1,), "collect-inputs": (0.005,)}
MOMENTS = [
    moment
    for step in STEPS
    for moment in (f"in:{step}:0", *(f"in:{step}:{seconds}" for seconds in INSIDE.get(step, ())), f"after:{step}")
]

pytestmark = [pytest.mark.machine, pytest.mark.sliced, pytest.mark.timeout(240)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, lease=2.0) as site:
        yield site


def _create(site: Site) -> Build:
    [submission] = site.service.submit(RECIPE)
    assert submission.verdict == "created"
    return submission.build


def _clean(site: Site, build: Build) -> None:
    state = site.config.state_dir
    assert removal.loops_under(state) == []
    assert removal.mounts_under(state) == []
    assert site.service.store.tidy(lambda _: False) == []
    site.nothing_left()
    assert list(site.children(build)) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_then_takeover(site: Site, moment: str) -> None:
    build = _create(site)
    assert site.worker("idle", moment, module="tests.small.bomb").wait(120) == -signal.SIGKILL
    assert site.service.build(build.id).state is BuildState.RUNNING
    site.run_worker(seconds=200)
    done = site.service.build(build.id)
    assert done.state is BuildState.SUCCEEDED, (done.error, done.hint)
    assert done.digest is not None
    site.service.images.verify(done.digest, Control())
    _clean(site, build)
    [again] = site.service.submit(RECIPE)
    assert (again.verdict, again.build.id) == ("reused", build.id)
    ran = [name for name, attempt, _state in site.states(build) if attempt > 1]
    assert ran == [moment.split(":")[1]]  # only the step it died in ran again


@pytest.mark.parametrize("step", [step for step in STEPS if step != "remove-workspace"])
def test_kill_9_then_abort(site: Site, step: str) -> None:
    build = _create(site)
    assert site.worker("idle", f"after:{step}", module="tests.small.bomb").wait(120) == -signal.SIGKILL
    site.service.abort(build.id)
    site.run_worker(seconds=60)
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.service.reap()  # what a step had published without being able to say so
    assert site.service.store.list() == []
    _clean(site, build)


def test_kill_9_in_a_revert(site: Site) -> None:
    build = _create(site)
    assert site.worker("idle", "in:finish-outputs:0", module="tests.small.bomb").wait(120) == -signal.SIGKILL
    site.service.abort(build.id)
    for step in ("build-disk", "collect-inputs", "prepare-workspace"):
        assert site.worker("idle", f"revert:{step}", module="tests.small.bomb").wait(60) == -signal.SIGKILL
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.ABORTED
    _clean(site, build)


def test_cancel_in_the_middle_of_disk_image_create(site: Site) -> None:
    build = _create(site)
    site.worker()
    site.await_that(lambda: "Running hooks" in _log(site, build), 60)
    assert list(site.children(build))
    site.service.cancel(build.id)
    site.await_state(build, BuildState.CANCELLED, seconds=60)
    site.await_that(lambda: site.service.board.job_count == 0)
    _clean(site, build)


def _log(site: Site, build: Build) -> str:
    path = site.service.log_path(build.id)
    return path.read_text() if path.exists() else ""
