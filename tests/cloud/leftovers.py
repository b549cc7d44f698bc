"""What is left of builds in a cloud's project: servers, keypairs, ports, images of ours (it has no volumes)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from glanceclient import Client as Glance
from keystoneauth1.adapter import Adapter
from novaclient.client import Client as Nova

from tests.cloud.cloud import Cloud

OURS = "imageflow:"  # what our images' properties begin with
_CLOUDS = {"imageflow": "RegionOne", "second": "RegionTwo"}
Remains = dict[str, Callable[[], object]]  # what it is, how it is removed


def leftovers(cloud: Cloud) -> list[str]:
    """One line for each, as the builds' own user sees them; none of it may stay when a build has ended."""
    return sorted(found(cloud))


def remove(cloud: Cloud, patience: float = 60) -> None:
    """Remove all of it, so that the next test does not find it."""
    end = time.monotonic() + patience
    while remains := found(cloud):
        assert time.monotonic() < end, f"cannot be removed: {sorted(remains)}"
        for delete in remains.values():
            try:
                delete()
            except Exception as error:
                last = error  # gone meanwhile, or busy: it is tried again
                del last
        time.sleep(0.5)


def found(cloud: Cloud) -> Remains:
    """What is left, and how to remove it."""
    return dict([*_machines(cloud), *_images(cloud)])


def _machines(cloud: Cloud) -> Iterator[tuple[str, Callable[[], object]]]:
    session = cloud.session()
    nova = Nova("2.93", session=session, region_name="RegionOne")
    for server in nova.servers.list():
        yield f"server {server.name} ({server.id}, {server.status})", server.delete
    for pair in nova.keypairs.list():
        yield f"keypair {pair.name}", pair.delete
    neutron = Adapter(session, service_type="network", region_name="RegionOne")
    for port in neutron.get("/v2.0/ports").json()["ports"]:
        if port["device_owner"].startswith("compute:") or port["name"].startswith("imageflow"):
            yield f"port {port['id']} ({port['device_owner']})", lambda i=port["id"]: neutron.delete(f"/v2.0/ports/{i}")


def _images(cloud: Cloud) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, region in _CLOUDS.items():
        service = "glance-api" if name == "imageflow" else "glance-second"
        if service not in cloud.running():
            continue
        glance = Glance("2", session=cloud.session(name), region_name=region)
        for hidden in (False, True):
            for image in glance.images.list(filters={"os_hidden": hidden}):
                if any(key.startswith(OURS) for key in image):
                    yield _image(region, image), lambda g=glance, i=image.id: g.images.delete(i)


def _image(region: str, image: Any) -> str:
    marks = {k: v for k, v in image.items() if k.startswith(OURS)}
    return f"image {image.name} ({image.id}, {image.status}) in {region}: {marks}"
