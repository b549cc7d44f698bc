"""The cloud itself: what the tests that use it rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from glanceclient import Client as Glance
from glanceclient.exc import CommunicationError
from keystoneauth1.exceptions import Forbidden
from keystoneauth1.session import Session
from novaclient.client import Client as Nova

from tests.cloud.cloud import Cloud, running
from tests.cloud.leftovers import leftovers, remove
from tests.cloud.settings import REGION, SECOND_REGION, root
from tests.cloud.supervision import lives
from tests.guests import tiny

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=3)]
NOVA = "2.93"


def wait(condition: Callable[[], object], patience: float = 200) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.fixture
def session(cloud: Cloud) -> Session:
    return cloud.session()


@pytest.fixture
def nova(session: Session) -> Nova:
    return Nova(NOVA, session=session, region_name=REGION)


@pytest.fixture
def glance(session: Session) -> Glance:
    return Glance("2", session=session, region_name=REGION)


@pytest.fixture
def base(cloud: Cloud) -> Iterator[str]:
    """A small image of an outsider's, who is in the same project."""
    made = cloud.openstack("image", "create", "--disk-format", "qcow2", "--file", str(tiny.disk()), "base")["id"]
    yield made
    cloud.openstack("image", "delete", made)


def test_a_plain_member_boots_and_snapshots(
    cloud: Cloud, session: Session, nova: Nova, glance: Glance, base: str, nothing_left: None
) -> None:
    (flavor,) = (f for f in nova.flavors.list() if f.name == "m1.nano")
    network = nova.neutron.find_network("net0").id
    server = nova.servers.create("smoke", base, flavor, nics=[{"net-id": network}])
    wait(lambda: nova.servers.get(server.id).status != "BUILD")
    server = nova.servers.get(server.id)
    assert server.status == "ACTIVE", server.fault
    (address,) = (a["addr"] for a in server.addresses["net0"])
    assert address.rpartition(".")[0] == cloud.gateway.rpartition(".")[0]
    assert [x for x in leftovers(cloud) if x.startswith("server smoke ")]
    assert [x for x in leftovers(cloud) if x.startswith("port ")]
    wait(lambda: "GUEST-READY" in nova.servers.get_console_output(server.id), 300)
    # The host reaches the guest, whose SSH speaks first.
    wait(lambda: b"SSH-2.0" in greeting(address))
    nova.servers.stop(server.id)
    wait(lambda: nova.servers.get(server.id).status == "SHUTOFF")
    image = nova.servers.create_image(server.id, "snapshot", {"imageflow:build_id": "smoke"})
    wait(lambda: glance.images.get(image).status == "active")
    nova.servers.delete(server.id)
    wait(lambda: not nova.servers.list())
    assert len([x for x in leftovers(cloud) if x.startswith("image snapshot ")]) == 1
    glance.images.delete(image)


def greeting(address: str) -> bytes:
    try:
        with socket.create_connection((address, 22), timeout=5) as peer:
            return peer.recv(100)
    except OSError:
        return b""


def test_what_is_left_is_seen_and_removed(cloud: Cloud, nova: Nova, glance: Glance, nothing_left: None) -> None:
    second = Glance("2", session=cloud.session("second"), region_name=SECOND_REGION)
    for where, hidden in ((glance, False), (glance, True), (second, False)):
        where.images.create(name="half", os_hidden=hidden, **{"imageflow:build_id": "b"})  # queued for ever
    other = glance.images.create(name="not ours").id
    nova.keypairs.create("imageflow-b", public_key=_key())
    assert [x.partition(" (")[0] for x in leftovers(cloud)] == [*["image half"] * 3, "keypair imageflow-b"]
    remove(cloud)
    assert leftovers(cloud) == []
    glance.images.delete(other)  # is there still


def _key() -> str:
    made = Ed25519PrivateKey.generate().public_key()
    return made.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _token(cloud: Cloud, token: str | None) -> dict[str, Any] | None:
    """What Keystone says of a token; None when it is not valid any more."""
    answer = cloud.session().get(f"{cloud.auth_url}/auth/tokens", headers={"X-Subject-Token": token}, raise_exc=False)
    return answer.json()["token"] if answer.status_code == 200 else None


def test_tokens_are_an_application_credentials_of_a_plain_member(cloud: Cloud, session: Session) -> None:
    token = _token(cloud, session.get_token())
    assert token is not None
    assert token["methods"] == ["application_credential"]
    assert token["application_credential"]["restricted"] is True
    assert {r["name"] for r in token["roles"]} == {"member", "reader"}
    with pytest.raises(Forbidden):
        session.get(f"{cloud.auth_url}/users")


def test_tokens_expire_when_told(cloud: Cloud) -> None:
    with cloud.token_life(2):
        token = cloud.session().get_token()
        wait(lambda: _token(cloud, token) is None, 60)
    later = _token(cloud, cloud.session().get_token())
    assert later is not None
    lives = datetime.fromisoformat(later["expires_at"]) - datetime.fromisoformat(later["issued_at"])
    assert lives.total_seconds() >= 3600


@pytest.mark.parametrize("service", ["nova-api", "glance-api", "glance-second", "keystone", "rabbit"])
def test_a_service_stops_alone_and_comes_back(cloud: Cloud, service: str) -> None:
    before = cloud.running()
    with cloud.without(service):
        assert sorted({*before} - {*cloud.running()}) == [service]
        assert not _listens(cloud.ports[service])
    assert cloud.running() == before
    assert _listens(cloud.ports[service])
    for name, region in (("imageflow", REGION), ("second", SECOND_REGION)):
        list(Glance("2", session=cloud.session(name), region_name=region).images.list())
    wait(lambda: Nova(NOVA, session=cloud.session(), region_name=REGION).servers.list() == [])


def _listens(port: int) -> bool:
    with socket.socket() as peer:
        return peer.connect_ex(("127.0.0.1", port)) == 0


def test_one_region_does_without_the_other(cloud: Cloud) -> None:
    with cloud.without("glance-second"):
        list(Glance("2", session=cloud.session(), region_name=REGION).images.list())
        with pytest.raises(CommunicationError):
            list(Glance("2", session=cloud.session("second"), region_name=SECOND_REGION).images.list())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["run", "supervisor"])
def test_a_killed_run_leaves_nothing_and_the_next_one_starts(tmp_path: Path, victim: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "IMAGEFLOW_TEST_CLOUD"}
    python = [sys.executable, "-m", "tests.cloud"]
    name = "killed"
    said = tmp_path / "said"
    with said.open("w") as out:
        run = subprocess.Popen(
            [*python, "--name", name, "run", "--", "sleep", "1000"], env=environment, stderr=out, start_new_session=True
        )
    try:
        wait(lambda: "up after" in said.read_text() or run.poll() is not None, 600)
        assert run.poll() is None, said.read_text()
        cloud = running(root() / name)
        assert cloud.running() == list(cloud.services)
        glance = Glance("2", session=cloud.session(), region_name=REGION)
        assert list(glance.images.list()) == []
        glance.images.create(name="of the killed run")
        processes = [Path(f"/proc/{p}") for p in cloud.supervision.processes()]
        assert len(processes) > 20
        os.kill(run.pid if victim == "run" else cloud.supervision.pid, signal.SIGKILL)
        wait(lambda: not [p for p in processes if p.exists()], 30)
    finally:
        os.killpg(run.pid, signal.SIGKILL)  # what it ran
        run.wait()
    assert not lives(root() / name)
    cable = Path(f"/sys/class/net/{cloud.settings.host_interface}")
    assert cable.exists()
    subprocess.run([*python, "--name", name, "stop"], env=environment, timeout=120)
    assert not cable.exists()
    assert sorted(p.name for p in (root() / name).iterdir()) == ["lock", "logs"]
