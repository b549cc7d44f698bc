"""A step fails: the build is paused and its server stays; an operator looks into it, and it goes on there or is given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import BuildState, StepState
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows.test_crash_boot import recipe
from tests.small.program import Program

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1200)]


@pytest.fixture
def site(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaSite]:
    with NovaSite(cloud, tmp_path) as site:
        yield site


def test_paused_then_resumed_in_the_same_server_then_another_aborted(site: NovaSite) -> None:
    file = recipe(site.folder)
    file.write_text(
        file.read_text().replace("cat /etc/imageflow-test >", "test -e /srv/mended && cat /etc/imageflow-test >")
    )
    [submission] = site.service.submit(file)
    build = submission.build
    program = Program(site.config.state_dir, "--config-file", str(site.file), env={"NO_PROXY": "127.0.0.1"})
    site.run_worker(seconds=300)
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "configure-03-shell"), site.log(build)

    (server,) = site.servers_ever(build)
    shown = program.json("build", "show", build.id)
    assert any(f"build ssh {build.id}" in line for line in shown["next"]), shown
    assert "GUEST-READY" in program.run("build", "console", build.id).stdout
    assert program.run("build", "ssh", build.id, "--", "cat", "/srv/first").stdout == "first\n"
    program.run("build", "ssh", build.id, "--", "touch /srv/mended")
    program.run("build", "resume", build.id)
    site.run_worker(seconds=300)
    site.done(build)
    assert site.servers_ever(build) == [server] == site.processes(build)
    records = {(step.name, step.attempt): step.state for step in site.service.steps(build.id)}
    assert records["configure-03-shell", 1] is StepState.FAILED
    assert records["configure-03-shell", 2] is StepState.SUCCEEDED
    assert ("configure-02-files", 2) not in records

    file.write_text(file.read_text().replace("cat /etc/imageflow-test >", "false >"))
    [submission] = site.service.submit(file)
    site.run_worker(seconds=300)
    other = submission.build
    assert site.service.build(other.id).state is BuildState.PAUSED
    assert len(site.in_cloud()) >= 3  # its server, its port, its key pair
    program.run("build", "abort", other.id)
    site.run_worker(seconds=120)
    assert site.service.build(other.id).state is BuildState.ABORTED
    site.nothing_left()
