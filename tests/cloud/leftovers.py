"""What is left of builds in a cloud's project: servers, keypairs, ports, images of ours (it has no volumes)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from glanceclient import Client as Glance
from keystoneauth1.adapter import Adapter
from keystoneauth1.session import Session
from novaclient.client import Client as Nova

from tests.cloud.cloud import Cloud
from tests.cloud.settings import REGION, SECOND_REGION

OURS = "imageflow:"  # what our images' properties begin with
_GLANCES = {"glance-api": REGION, "glance-second": SECOND_REGION}
Remains = dict[str, Callable[[], object]]  # what it is, and how to remove it


def leftovers(cloud: Cloud) -> list[str]:
    """One line for each, as the builds' own user sees them; none may stay when a build has ended."""
    return sorted(found(cloud))


def remove(cloud: Cloud, patience: float = 60) -> None:
    """Remove all of it, so that the next test does not find it."""
    end = time.monotonic() + patience
    while remains := found(cloud):
        assert time.monotonic() < end, f"cannot be removed: {sorted(remains)}"
        for delete in remains.values():
            with contextlib.suppress(Exception):  # gone by now, or busy: tried again
                delete()
        time.sleep(0.5)


def found(cloud: Cloud) -> Remains:
    """What is left, and how to remove it."""
    session = cloud.session()
    return dict([*_machines(session), *_images(cloud, session)])


def _machines(session: Session) -> Iterator[tuple[str, Callable[[], object]]]:
    nova = Nova("2.93", session=session, region_name=REGION)
    for server in nova.servers.list():
        yield f"server {server.name} ({server.id}, {server.status})", server.delete
    for pair in nova.keypairs.list():
        yield f"keypair {pair.name}", pair.delete
    neutron = Adapter(session, service_type="network", region_name=REGION)
    for port in neutron.get("/v2.0/ports").json()["ports"]:
        if port["device_owner"].startswith("compute:") or port["name"].startswith("imageflow"):
            yield f"port {port['id']} ({port['device_owner']})", partial(neutron.delete, f"/v2.0/ports/{port['id']}")


def _images(cloud: Cloud, session: Session) -> Iterator[tuple[str, Callable[[], object]]]:
    running = cloud.running()
    for region in (r for service, r in _GLANCES.items() if service in running):
        glance = Glance("2", session=session, region_name=region)
        for hidden in (False, True):
            for image in glance.images.list(filters={"os_hidden": hidden}):
                if any(key.startswith(OURS) for key in image):
                    yield _image(region, image), partial(glance.images.delete, image.id)


def _image(region: str, image: Any) -> str:
    marks = {k: v for k, v in image.items() if k.startswith(OURS)}
    return f"image {image.name} ({image.id}, {image.status}) in {region}: {marks}"
