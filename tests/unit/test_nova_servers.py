"""What a server of nova in some state is to imageflow: a machine that runs, has stopped, failed, or is absent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imageflow.compute import MachineState
from imageflow.compute.nova import servers
from imageflow.model import Event
from imageflow.openstack import Cloud
from tests.unit.any_json import ANY_JSON


def server(
    status: str, power: int | None = 1, task: str | None = None, stage: str = servers.DISK, **more: Any
) -> SimpleNamespace:
    """As novaclient gives it."""
    return SimpleNamespace(
        status=status,
        metadata={servers.MACHINE: "0123456789ab-main", servers.STAGE: stage},
        **{"OS-EXT-STS:power_state": power, "OS-EXT-STS:task_state": task},
        **more,
    )


RUNNING, STOPPED, ERROR = MachineState.RUNNING, MachineState.STOPPED, MachineState.ERROR


@pytest.mark.parametrize(
    ("status", "power", "task", "meant"),
    [
        ("ACTIVE", 1, None, RUNNING),
        ("ACTIVE", 4, None, STOPPED),  # its guest powered it off; Nova says SHUTOFF some seconds later
        ("ACTIVE", 4, "powering-on", RUNNING),
        ("ACTIVE", 1, "powering-off", RUNNING),
        ("ACTIVE", 1, "image_snapshot", RUNNING),
        ("ACTIVE", None, None, RUNNING),
        ("ACTIVE", 6, None, ERROR),  # crashed
        ("BUILD", 0, "spawning", RUNNING),
        ("BUILD", None, None, RUNNING),
        ("SHUTOFF", 4, None, STOPPED),
        ("SHUTOFF", 4, "image_uploading", STOPPED),
        ("SHELVED", 4, None, STOPPED),
        ("SHELVED_OFFLOADED", 4, None, STOPPED),
        ("REBOOT", 1, "rebooting", RUNNING),
        ("HARD_REBOOT", 4, "reboot_started_hard", RUNNING),
        ("PAUSED", 3, None, RUNNING),
        ("SUSPENDED", 4, None, RUNNING),
        ("RESCUE", 1, None, RUNNING),
        ("MIGRATING", 1, "migrating", RUNNING),
        ("REBUILD", 1, "rebuilding", RUNNING),
        ("RESIZE", 1, "resize_migrating", RUNNING),
        ("VERIFY_RESIZE", 1, None, RUNNING),
        ("PASSWORD", 1, "updating_password", RUNNING),
        ("UNKNOWN", 0, None, RUNNING),
        ("ERROR", 0, None, ERROR),
        ("ERROR", 1, "deleting", ERROR),
    ],
)
def test_what_a_server_is_to_imageflow(status: str, power: int | None, task: str | None, meant: MachineState) -> None:
    assert servers.state(server(status, power, task), _never) is meant


def _never(_: Any) -> bool:
    raise AssertionError("what a server that boots from its disk did in its life is of no interest")


def test_no_server_is_absent() -> None:
    assert servers.state(None, _never) is MachineState.ABSENT


@pytest.mark.parametrize(
    ("status", "power", "ejected", "meant"),
    [
        ("BUILD", 0, False, RUNNING),
        ("ACTIVE", 1, False, RUNNING),  # the ISO is about to be booted
        ("ACTIVE", 4, False, RUNNING),  # nothing is on its disk: it is no installed machine that was powered off
        ("SHUTOFF", 4, False, RUNNING),
        ("RESCUE", 1, False, RUNNING),  # the installer works
        ("RESCUE", 4, False, STOPPED),  # it is done
        ("ACTIVE", 1, True, STOPPED),  # it boots its disk, and nobody has written that down yet
        ("PAUSED", 3, True, STOPPED),
        ("SHUTOFF", 4, True, STOPPED),
        ("ERROR", 0, False, ERROR),
        ("RESCUE", 6, False, ERROR),
    ],
)
def test_what_a_server_is_while_an_installer_runs(status: str, power: int, ejected: bool, meant: MachineState) -> None:
    assert servers.state(server(status, power, stage=servers.INSTALLING), lambda _: ejected) is meant


def test_a_server_that_never_was_told_its_stage_boots_from_its_disk() -> None:
    bare = SimpleNamespace(status="SHUTOFF", metadata={})
    assert servers.state(bare, _never) is STOPPED


def test_the_fault_of_a_server_is_one_line() -> None:
    assert servers.fault(server("ERROR")) == "no reason was given"
    assert servers.fault(server("ERROR", fault={"code": 500})) == "no reason was given"
    assert (
        servers.fault(server("ERROR", fault={"message": "No valid host\n was  found."})) == "No valid host was found."
    )
    assert len(servers.fault(server("ERROR", fault={"message": "x" * 1000}))) == 300


def test_a_server_that_ran_has_a_disk_worth_something() -> None:
    assert not servers.launched(server("ERROR"))
    assert not servers.launched(server("ERROR", **{"OS-SRV-USG:launched_at": None}))
    assert servers.launched(server("ERROR", **{"OS-SRV-USG:launched_at": "2026-11-23T03:00:00.000000"}))


@given(type=st.sampled_from(["nova.instance.update", "nova.compute.instance.update"]), data=ANY_JSON)
@example(type="nova.instance.update", data=[])
@example(type="nova.instance.update", data={"uuid": {}})
def test_whatever_is_sent_as_word_of_a_server_does_no_harm(type: str, data: Any) -> None:
    """Anybody may post an event of this type: the inbox has it when servers are looked at, and answers its sender."""
    servers.Servers(cast("Cloud", None), poll=1.0).heard(Event("anybody", "1", type, data=data))
