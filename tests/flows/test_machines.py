"""Builds on real machines that meet what operators, recipes and dying workers do to them."""

from __future__ import annotations

import re
import signal
import textwrap
import time
from pathlib import Path

import pytest

from imageflow.compute import MachineState
from imageflow.model import Build, BuildState
from tests.guests import tiny
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine(seconds=30), pytest.mark.timeout(300)]


def create(site: MachineSite, more: str, name: str = "tiny") -> Build:
    """Queue a build of the tiny guest; `more` are keys of its image."""
    file = site.folder / f"{name}.yaml"
    image = f"name: {name}\nmethod: boot\nbase: {{file: {tiny.disk()}}}\nmachine: {{vcpus: 1, memory: 192}}\n"
    image += textwrap.dedent(more)
    file.write_text("images:\n  - " + image.replace("\n", "\n    ").rstrip() + "\n")
    [submission] = site.service.submit(file)
    assert submission.verdict == "created", submission
    return submission.build


def holds(folder: Path, text: str, *, but: str) -> list[str]:
    """The files below a folder that hold a text, without those named `but`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != but]
    return [str(path) for path in files if text.encode() in path.read_bytes()]


def test_a_secret_a_failing_check_and_a_build_that_waits(tmp_path: Path) -> None:
    """Outputs that no machine boots from are verified all the same; a folder with a space is a folder."""
    folder = tmp_path / "a b"
    folder.mkdir()
    secrets = str(folder / "secrets")
    with MachineSite(folder, lease=1.0, qemu__max_memory="600", secrets__directory=secrets) as site:
        secret = site.config.secrets_dir / "token"
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("wrong-hush-hush-1\n")
        secret.with_name("steady").write_text("steady-hush-hush")
        build = create(
            site,
            """\
            configure:
              - shell: {run: 'echo "$TOKEN" | tee /dev/console | wc -c', environment: {TOKEN: {secret: steady}}}
            verify:
              - shell: {run: 'echo "$TOKEN"; test "$TOKEN" = right-hush-hush', environment: {TOKEN: {secret: token}}}
            outputs: [vhd]
            """,
        )
        site.run_worker(seconds=200)
        paused = site.service.build(build.id)
        assert (paused.state, paused.step) == (BuildState.PAUSED, "verify-image"), site.log(build)
        assert "check 1 of verify failed" in str(paused.error)
        assert "not published" in str(paused.hint)
        assert site.service.store.list() == []
        assert site.service.machines.running(paused) == ["verify"]  # kept, to be looked at

        # its machine takes the memory that another one waits for: that is not the other one's fault
        other = create(site, "timeout: {step: 3}\nconfigure: [{shell: 'true'}]\n", "other")
        site.worker()
        site.await_that(lambda: site.service.waits(other.id) and " waits: " in site.log(other), 30)
        began = time.monotonic()
        while time.monotonic() - began < 4:
            assert site.service.build(other.id).state is BuildState.QUEUED, site.log(other)
            assert "room for its machine" in (site.service.waits(other.id) or "")
            time.sleep(0.2)
        site.service.cancel(other.id)
        site.await_state(other, BuildState.CANCELLED, seconds=10)

        secret.write_text("right-hush-hush\n")
        site.service.resume(build.id)
        done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=120)
        assert done.state is BuildState.SUCCEEDED, site.log(build)
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()
        assert holds(folder, "wrong-hush-hush", but="token") == []
        assert holds(folder, "steady-hush-hush", but="steady") == []


def test_a_machine_that_was_put_away_goes_on_where_it_was(tmp_path: Path) -> None:
    """A login brings it back; resumed, the build finds what was in its machine's memory, and the time of day."""
    with MachineSite(tmp_path, lease=1.0, qemu__max_memory="600", builds__park_after="1", max_builds="1") as site:
        build = create(
            site,
            """\
            configure:
              - shell: 'test -e /run/mended || { echo kept > /run/in-memory; exit 3; }; cat /run/in-memory > /srv/kept'
              - shell: 'date +%s > /srv/now'
            verify: [{shell: 'test "$(cat /srv/kept)" = kept; test "$(cat /srv/now)" -gt 1700000000'}]
            """,
        )
        site.worker()
        site.await_that(lambda: site.paused(build), 120)
        site.on_machine(build, "touch /run/mended; date -s @1000000 > /dev/null")
        site.await_that(lambda: site.service.compute.state(f"{build.id}-main") is MachineState.PARKED, 30)
        assert site.service.machines.running(site.service.build(build.id)) == ["main"]
        access = site.service.machines.login(site.service.build(build.id))  # as `build ssh` does
        assert site.service.compute.state(f"{build.id}-main") is MachineState.RUNNING and access.port
        assert site.on_machine(build, "cat /run/in-memory") == "kept\n"
        site.service.resume(build.id)
        done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=200)
        assert done.state is BuildState.SUCCEEDED, site.log(build)
        assert "is put away" in site.log(build)
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()


def test_a_machine_that_is_sealed_again_by_one_that_dies_is_not_published_half_sealed(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=1.0) as site:
        build = create(site, "configure: [{shell: 'echo one > /srv/one'}]\nverify: [{shell: 'test -e /srv/one'}]\n")
        assert site.worker("idle", "in:stop-machine:0", module="tests.small.bomb").wait(120) == -signal.SIGKILL
        site.kill_machine(build)
        worker = site.worker()
        site.await_that(lambda: "again from its last layer" in site.log(build) and site.pid(build), 30)
        worker.kill()
        site.run_worker(seconds=200)
        assert site.service.build(build.id).state is BuildState.SUCCEEDED, site.log(build)


def test_the_other_host_starts_from_nothing(tmp_path: Path) -> None:
    """A worker dies when the machine is gone already; another host has neither its files nor its layers."""
    database = f"sqlite:///{tmp_path}/both.db"
    for host in ("red", "blue"):
        (tmp_path / host).mkdir()
    with (
        MachineSite(tmp_path / "red", database, lease=1.0, host="red") as red,
        MachineSite(tmp_path / "blue", database, lease=1.0, host="blue") as blue,
    ):
        build = create(red, "configure: [{shell: 'echo one > /srv/one'}]\nverify: [{shell: 'test -e /srv/one'}]\n")
        assert red.worker("idle", "after:seal", module="tests.small.bomb").wait(120) == -signal.SIGKILL
        pid = red.pid(build)
        blue.run_worker(seconds=200)
        done = blue.service.build(build.id)
        assert (done.state, done.host) == (BuildState.SUCCEEDED, "blue"), blue.log(build)
        ran = [step.name for step in blue.service.steps(build.id) if str(step.conductor).startswith("blue:")]
        assert {"prepare-machine", "fetch-base", "configure-01-shell", "seal"} <= set(ran)
        assert red.pid(build) == pid is not None  # nobody but red can end it
        red.service.reap()
        red.nothing_left()


def test_a_base_that_changes_before_the_build_begins(tmp_path: Path) -> None:
    """The build says so; with the old base back it would go on."""
    base = tmp_path / "base.raw"
    base.write_bytes(b"one".ljust(1 << 20))
    with MachineSite(tmp_path, lease=1.0) as site:
        file = tmp_path / "recipe.yaml"
        file.write_text("images: [{name: it, method: boot, base: {file: base.raw}, machine: {memory: 64}}]")
        [submission] = site.service.submit(file)
        base.write_bytes(b"two".ljust(1 << 20))
        site.run_worker()
        paused = site.service.build(submission.build.id)
        assert (paused.state, paused.step) == (BuildState.PAUSED, "fetch-base")
        assert "not what it was when the build was planned" in str(paused.error)
        site.service.abort(paused.id)
        site.run_worker()
        site.nothing_left()


def test_a_step_that_powers_its_machine_off_is_told_at_once(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=1.0) as site:
        build = create(site, "on_failure: revert\nconfigure: [{shell: 'poweroff -f; sleep 250'}]\n")
        site.run_worker(seconds=200)
        failed = site.service.build(build.id)
        assert failed.state is BuildState.FAILED
        assert "was powered off in this step" in str(failed.error), site.log(build)
        site.nothing_left()


def test_a_packed_secret_in_the_disk_stops_the_build_before_anything_is_published(tmp_path: Path) -> None:
    secrets = str(tmp_path / "secrets")
    with MachineSite(tmp_path, lease=1.0, qemu__max_memory="1000", secrets__directory=secrets) as site:
        secret = site.config.secrets_dir / "token"
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("hush-hush/1\n")
        step = "- shell: {{run: '{run}', environment: {{TOKEN: {{secret: token}}}}}}"
        packed = 'mkdir -p /opt; echo "password=$TOKEN" | gzip > /opt/leak.gz'
        coded = 'mkdir -p /opt; printf %s "$TOKEN" | sed s,/,%2F, > /opt/leak'
        build = create(site, f"configure:\n  {step.format(run=packed)}\n", "packed")
        site.run_worker(seconds=120)
        first = site.service.build(build.id)
        assert (first.state, first.step) == (BuildState.PAUSED, "snapshot-machine"), site.log(first)
        found = r"a secret of the build is in the image: \S*/leak.gz.* \(compressed, as it is\)"
        assert re.search(found, str(first.error)), first.error
        assert "abort this build" in str(first.hint)
        build = create(site, f"configure:\n  {step.format(run=coded)}\n", "coded")
        site.run_worker(seconds=120)
        second = site.service.build(build.id)
        assert (second.state, second.step) == (BuildState.PAUSED, "seal"), site.log(second)
        assert "a secret of the recipe is in /opt/leak" in str(second.error)
        assert site.service.store.list() == []
