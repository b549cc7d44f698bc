"""The cloud itself: what tests rely on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from glanceclient import Client as Glance
from novaclient.client import Client as Nova

from tests.cloud.cloud import Cloud
from tests.guests import tiny

pytestmark = pytest.mark.cloud


def wait(condition: Callable[[], object], patience: float = 120) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_a_plain_member_boots_and_snapshots(cloud: Cloud, nothing_left: None) -> None:
    session = cloud.session()
    glance = Glance("2", session=session, region_name="RegionOne")
    nova = Nova("2.93", session=session, region_name="RegionOne")
    base = cloud.openstack(
        "image", "create", "--disk-format", "qcow2", "--file", str(tiny.disk()), "base", cloud="outsider"
    )["id"]
    (flavor,) = (f for f in nova.flavors.list() if f.name == "m1.nano")
    network = nova.neutron.find_network("net0").id
    server = nova.servers.create("smoke", base, flavor, nics=[{"net-id": network}])
    wait(lambda: nova.servers.get(server.id).status in ("ACTIVE", "ERROR"))
    assert nova.servers.get(server.id).status == "ACTIVE", nova.servers.get(server.id).fault
    wait(lambda: "GUEST-READY" in nova.servers.get_console_output(server.id))
    nova.servers.stop(server.id)
    wait(lambda: nova.servers.get(server.id).status == "SHUTOFF")
    image = nova.servers.create_image(server.id, "snapshot")
    wait(lambda: glance.images.get(image).status == "active")
    glance.images.delete(image)
    glance.images.delete(base)
    nova.servers.delete(server.id)
    wait(lambda: server.id not in [s.id for s in nova.servers.list()])
