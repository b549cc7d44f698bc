"""The driver nova, when requests get lost between Nova and its hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.compute.nova.driver import NovaCompute
from imageflow.errors import MachineLost, TimedOut
from tests.drivers.nova.nova_machine import NAME, control, ensure, ours
from tests.servers.nova import Nova, configured


@pytest.fixture
def soon(nova: Nova, tmp_path: Path) -> NovaCompute:
    """Hosts have a second to begin."""
    return NovaCompute(configured(nova, tmp_path, build_timeout=1.0))


def test_a_snapshot_that_no_host_hears_of_is_not_waited_for(nova: Nova, soon: NovaCompute) -> None:
    """Nova would keep the server in that state for ever, and refuse everything else."""
    ours(nova, "SHUTOFF", 4)
    nova.heard = False
    with pytest.raises(MachineLost, match="never received it"):
        soon.disk(NAME, control())
    assert nova.servers == {} and "queued" not in nova.images


def test_a_start_that_no_host_hears_of_is_not_waited_for(nova: Nova, soon: NovaCompute) -> None:
    ours(nova, "SHUTOFF", 4)
    nova.heard = False
    with pytest.raises(MachineLost, match=r"start a server.*never received it"):
        ensure(soon)
    assert nova.servers == {}


def test_a_snapshot_that_a_host_is_late_with_is_waited_for(nova: Nova, soon: NovaCompute) -> None:
    """It makes so many at once, and has others to make first."""
    server = ours(nova, "SHUTOFF", 4)
    nova.heard = False

    def hear(request: str) -> None:
        if request.endswith("/os-instance-actions"):
            server["acted"][-1][1].append({"event": "compute_snapshot_instance"})

    nova.before = hear
    with pytest.raises(TimedOut, match="the build took longer"):
        soon.disk(NAME, control(4.0))
    assert list(nova.servers) == [server["id"]] and "queued" in nova.images
