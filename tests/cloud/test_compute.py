"""What every compute driver promises, kept by Nova: the suite of all drivers where it fits, and what only a cloud can do."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow.compute import Layer, MachineSpec, MachineState
from imageflow.compute.nova import media
from imageflow.compute.nova.driver import NovaCompute
from imageflow.compute.nova.servers import MACHINE
from imageflow.config.clouds import OpenStackConfig
from imageflow.errors import MachineLost, Refused, Unavailable
from imageflow.guest import connect, keys, seed
from imageflow.host.control import Control
from tests.cloud.cloud import Cloud
from tests.drivers.compute_site import BUILD, NAME, Site, key
from tests.drivers.test_compute import (
    test_a_machine_that_never_was as test_a_machine_that_never_was,
)
from tests.drivers.test_compute import (
    test_a_name_is_a_name as test_a_name_is_a_name,
)
from tests.drivers.test_compute import (
    test_ensure_twice_is_the_same_machine as test_ensure_twice_is_the_same_machine,
)
from tests.drivers.test_compute import (
    test_hostile_bases_are_refused as test_hostile_bases_are_refused,
)
from tests.drivers.test_compute import (
    test_two_machines_do_not_meet as test_two_machines_do_not_meet,
)
from tests.drivers.test_compute import (
    test_what_can_never_run_is_refused as test_what_can_never_run_is_refused,
)
from tests.guests import tiny

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=3), pytest.mark.timeout(300)]
SPEC = MachineSpec(vcpus=1, memory=192, disk=1)


class NovaPlace(Site):
    """Machines of one cloud, as the plain member that builds are."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = OpenStackConfig("imageflow", None, cloud.clouds_yaml, 60.0, 60.0)
        super().__init__("nova", folder)
        self._keys = keys.make(folder / "keys")

    def open(self) -> NovaCompute:
        nova = dataclasses.replace(self.config.nova, poll=0.5)
        self.config = dataclasses.replace(self.config, openstack=self._cloud, nova=nova)
        return NovaCompute(self.config)

    def control(self, seconds: float = 200.0) -> Control:
        return super().control(seconds)

    def tiny(self) -> Layer:
        """A system that boots."""
        layers = self.compute.layers
        return layers.add_base(key("t"), tiny.disk(), "qcow2", title="tiny", build_id=BUILD, control=self.control())

    def boot(self, layer: Layer, name: str = NAME) -> str:
        """Boot it so that one can log in; -> the server's id."""
        told = seed.make(self._keys, instance_id=name)
        return self.ensure(name, SPEC, disk=layer.source, seed=told).process

    @contextlib.contextmanager
    def inside(self, name: str = NAME) -> Iterator[connect.SshConnection]:
        """Wait until it answers."""
        host, port = self.compute.address(name)
        access = keys.access(self._keys, host, port, host_known=True)
        with connect.await_ssh(
            access, control=self.control(), log=self.log.append, timeout=120, dead=lambda: None
        ) as guest:
            yield guest

    def servers(self) -> list[str]:
        """Ids of what runs."""
        compute = self.compute
        assert isinstance(compute, NovaCompute)
        return [server.id for server in compute.cloud.nova.servers.list()]


@pytest.fixture
def place(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaPlace]:
    made = NovaPlace(cloud, tmp_path)
    yield made
    for name in made.compute.list():
        made.compute.delete(name)
    made.compute.layers.release(BUILD)
    made.compute.layers.collect(0.0, 0.0, lambda _: False)
    assert made.left() == []


def test_a_layer_is_what_the_machine_had_and_nothing_it_inherited(place: NovaPlace) -> None:
    base = place.tiny()
    first = place.boot(base)
    with place.inside() as guest:
        guest.run("echo layered > /srv/layer; sync", control=place.control())
    layer = place.checkpoint("c", parent=base.key)
    assert place.checkpoint("c", parent=base.key) == layer
    assert (layer.key, layer.parent, layer.title, layer.holders) == (key("c"), base.key, "c", (BUILD,))
    assert {layer.key, base.key} <= {each.key for each in place.compute.layers.list()}
    compute = place.compute
    assert isinstance(compute, NovaCompute)
    said = dict(compute.cloud.glance.images.get(layer.source.path))
    assert said["visibility"] == "private" and said["os_hidden"]
    assert not {"base_image_ref", "image_type", "boot_roles", "user_id"} & set(said), said
    assert place.compute.layers.find(base.key) == place.compute.layers.find(key("t")) != layer
    place.compute.delete(NAME)
    second = place.boot(layer)
    assert second != first
    with place.inside() as guest:
        assert guest.run("cat /srv/layer", control=place.control()).strip() == "layered"
    assert layer.key not in [each.key for each in place.compute.layers.collect(0.0, 0.0, lambda _: True)]


def test_stop_then_disk_then_start(place: NovaPlace) -> None:
    id = place.boot(place.tiny())
    with place.inside() as guest:
        guest.run("echo one > /srv/one; sync", control=place.control())
    said = place.compute.console(NAME)
    assert b"Linux version" in said
    with pytest.raises(Unavailable):
        place.compute.disk(NAME, place.control())
    place.compute.stop(NAME, place.control())
    assert place.compute.state(NAME) is MachineState.STOPPED
    place.compute.stop(NAME, place.control())
    source = place.compute.disk(NAME, place.control())
    assert place.compute.disk(NAME, place.control()) == source
    assert subprocess.run(["qemu-img", "check", "-q", "-f", source.format, source.path]).returncode == 0
    assert place.boot(place.tiny()) == id  # on its own disk
    with place.inside() as guest:
        assert guest.run("cat /srv/one", control=place.control()).strip() == "one"
    assert place.compute.console(NAME).startswith(said[:1000])
    assert place.compute.console(NAME).count(b"Linux version") == 2  # both boots in one
    assert not Path(source.path).exists()  # it is not what the disk is now


def test_a_server_that_broke_starts_again_from_its_disk(place: NovaPlace, cloud: Cloud) -> None:
    id = place.boot(place.tiny())
    compute = place.compute
    assert isinstance(compute, NovaCompute)
    with place.inside() as guest:
        guest.run("echo kept > /srv/kept; sync", control=place.control())
    from novaclient.client import Client

    admin = Client("2.93", session=cloud.session("admin"), region_name="RegionOne")
    admin.servers.reset_state(id, "error")
    place.until(lambda: compute.state(NAME) is MachineState.ERROR)
    with pytest.raises(Unavailable):
        compute.stop(NAME, place.control())
    with pytest.raises(Unavailable):
        place.checkpoint("c")
    assert place.boot(place.tiny()) == id
    with place.inside() as guest:
        assert guest.run("cat /srv/kept", control=place.control()).strip() == "kept"


def test_two_servers_of_one_machine_are_one_in_the_end(place: NovaPlace) -> None:
    """An answer that got lost: Nova made a server that nobody knows of."""
    layer = place.tiny()
    place.boot(layer)
    compute = place.compute
    assert isinstance(compute, NovaCompute)
    known = compute.cloud.nova.servers.list()[0]
    flavor = next(f for f in compute.cloud.nova.flavors.list() if f.name == "m1.micro")
    network = compute.cloud.network.get("/v2.0/networks").json()["networks"][0]["id"]
    compute.cloud.nova.servers.create(
        NAME, layer.source.path, flavor.id, nics=[{"net-id": network}], meta=dict(known.metadata)
    )
    assert (
        place.open()
        .ensure(NAME, SPEC, build_id=BUILD, control=place.control(), log=place.log.append, disk=layer.source)
        .process
        == known.id
    )
    compute.delete(NAME)
    assert place.servers() == []


def test_no_valid_host_is_said_in_novas_words(place: NovaPlace) -> None:
    layer = place.tiny()
    nova = dataclasses.replace(place.config.nova, availability_zone="nowhere:nobody")
    compute = NovaCompute(dataclasses.replace(place.config, nova=nova))
    with pytest.raises(Refused):
        compute.ensure(NAME, SPEC, build_id=BUILD, control=place.control(), log=place.log.append, disk=layer.source)
    compute.delete(NAME)
    assert place.servers() == []


def test_a_full_quota_is_said_or_waited_for(place: NovaPlace, cloud: Cloud) -> None:
    from novaclient.client import Client

    compute = place.compute
    assert isinstance(compute, NovaCompute)
    admin = Client("2.93", session=cloud.session("admin"), region_name="RegionOne")
    project = compute.cloud.project
    before = admin.quotas.get(project).instances
    layer = place.tiny()
    try:
        admin.quotas.update(project, instances=0, force=True)
        with pytest.raises(Refused, match=r"[Qq]uota"):
            place.boot(layer)
        admin.quotas.update(project, instances=1, force=True)
        place.boot(layer, f"{BUILD}-verify")

        def make_room() -> None:
            place.until(lambda: any("waits" in line for line in place.log), 120)
            place.open().delete(f"{BUILD}-verify")

        with ThreadPoolExecutor(1) as other:
            made = other.submit(make_room)
            place.boot(layer)
            made.result()
    finally:
        admin.quotas.update(project, instances=before, force=True)


@pytest.mark.slow  # a minute; in every run it is on a stand-in, in test_nova_lost
def test_what_the_host_never_hears_of_is_not_waited_for(place: NovaPlace, cloud: Cloud) -> None:
    """Nova's broker comes back, and what is said before the host listens to it again goes nowhere."""

    def host(how: str) -> None:
        subprocess.run(cloud.enter("pkill", f"-{how}", "-f", "/nova-compute"), check=True)

    place.boot(place.tiny())
    place.compute.stop(NAME, place.control())
    nova = dataclasses.replace(place.config.nova, build_timeout=15.0)
    compute = NovaCompute(dataclasses.replace(place.config, nova=nova))
    server = compute._servers.one(NAME)
    with ThreadPoolExecutor(1) as other:
        cloud.stop("rabbit", signal.SIGKILL)
        host("STOP")
        try:
            back = other.submit(cloud.start, "rabbit")
            server.create_image(f"{NAME}-disk", {MACHINE: NAME, media.PURPOSE: media.DISK})
            assert not back.done()
        finally:
            host("CONT")
        back.result()
    with pytest.raises(MachineLost, match="never received it"):
        compute.disk(NAME, place.control())
    assert compute.state(NAME) is MachineState.ABSENT
    assert not [image for image in compute._images.find({}, snapshots=True) if image.says(MACHINE) == NAME]
