"""The driver nova: what is left of builds, and what belongs to others."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from imageflow.compute import Source
from imageflow.compute.nova.driver import NovaCompute
from imageflow.compute.nova.layers import PARENT
from imageflow.compute.nova.servers import MACHINE
from imageflow.model import Build, BuildState
from imageflow.persistence import builds
from tests.drivers.nova.nova_machine import BUILD, KEY, LAYER, NAME, OTHER, ensure
from tests.servers.glance import clouds_yaml
from tests.servers.nova import Nova
from tests.small.site import Site


def test_the_janitor_removes_what_an_ended_build_left_and_nothing_else(nova: Nova, tmp_path: Path) -> None:
    """The key pairs of a person are in the same account, and may be named like ours: builds begin with hex digits, too."""
    cloud = {"openstack__cloud": "c", "openstack__patience": "0", "nova__poll": "0.1", "compute__driver": "nova"}
    with Site(tmp_path, openstack__clouds_yaml=str(clouds_yaml(tmp_path, c=nova)), **cloud) as site:
        ended = Build(BUILD, "web", "boot", BuildState.SUCCEEDED, "a test", BUILD * 5, str(uuid.uuid4()), time.time())
        site.service.database.transact(lambda conn: builds.insert(conn, ended, claim=False))
        theirs = f"{OTHER}-main"
        nova.server(NAME, metadata={MACHINE: NAME})
        nova.server(theirs, metadata={MACHINE: theirs})  # of another imageflow
        nova.server(f"{BUILD}-mine")  # of a person
        persons = [f"imageflow-{BUILD[:1]}", f"imageflow-{BUILD[:11]}", "imageflow-admin", BUILD]
        nova.keypairs = dict.fromkeys([*persons, f"imageflow-{NAME}", f"imageflow-{theirs}"], "ssh-ed25519 AAAA")
        site.service.reap()
        assert sorted(server["name"] for server in nova.servers.values()) == sorted([theirs, f"{BUILD}-mine"])
        assert sorted(nova.keypairs) == sorted([*persons, f"imageflow-{theirs}"])


UEFI = {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("said", [{}, UEFI], ids=["bios before", "uefi before"])
def test_a_base_that_was_taken_in_starts_by_the_firmware_of_each_machine(
    nova: Nova, compute: NovaCompute, firmware: str, said: dict[str, str]
) -> None:
    nova.add("layer", name=f"imageflow-layer-{KEY[:12]}", **LAYER, **said)
    ensure(compute, firmware, disk=Source("layer", "qcow2", KEY))
    assert {name: nova.images["layer"].get(name) for name in UEFI} == (
        UEFI if firmware == "uefi" else dict.fromkeys(UEFI)
    )


def test_a_snapshot_starts_as_its_server_did(nova: Nova, compute: NovaCompute) -> None:
    nova.add("layer", name=f"imageflow-layer-{KEY[:12]}", **LAYER, **UEFI, **{PARENT: ""})
    ensure(compute, disk=Source("layer", "qcow2", KEY))
    assert {name: nova.images["layer"].get(name) for name in UEFI} == UEFI


def test_a_version_that_a_build_stands_on_is_not_changed(nova: Nova, compute: NovaCompute) -> None:
    version = dict(nova.add("version", name="debian", **{"imageflow:kind": "version", "imageflow:build_id": OTHER}))
    ensure(compute, "uefi", disk=Source("version", "qcow2", KEY))
    assert nova.images["version"] == version
    assert not [request for request in nova.seen if request.startswith("PATCH")]


def test_a_layer_that_can_not_be_removed_keeps_no_other(nova: Nova, compute: NovaCompute) -> None:
    name = f"imageflow-layer-{KEY[:12]}"
    nova.add("half", name=name, protected=True, status="queued", **LAYER)
    nova.add("old", name=name, **LAYER)
    assert [layer.key for layer in compute.layers.collect(0.0, 0.0, lambda _: False)] == [KEY]
    assert "old" not in nova.images and "half" in nova.images
