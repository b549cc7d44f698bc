"""`imageflow serve` with its images in the test cloud's Glance, and heat with our resource: what a stack needs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import requests
from glanceclient import Client as Glance
from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import ClientException
from keystoneauth1.session import Session

from tests.cloud import identity
from tests.cloud.cloud import Cloud
from tests.cloud.leftovers import leftovers, remove
from tests.cloud.settings import REGION
from tests.cloud.stacks import Stacks
from tests.guests import tiny
from tests.servers.services import free_ports
from tests.small.program import ROOT, Program

T = TypeVar("T")
SERVICE = "image-builder"
_PACKAGE = ROOT / "packaging/heat"
# `by-hand` fails until a person has made a file on the machine of the build
ENTRY = """\
description: a tiny guest
takes: [custom_files]
recipes:
  shell:
    by-hand: [{{shell: test -e /srv/by-hand}}]
    slow: [{{shell: sleep 25}}]
image:
  method: boot
  base: {{file: {disk}}}
  machine: {{vcpus: 1, memory: 192}}
  publish: {{visibility: community, properties: {{os_distro: tiny}}}}
"""
OPTIONS = """\
[DEFAULT]
state_dir = {state}
[api]
auth = keystone
project = {project}
[keystone_authtoken]
auth_type = password
auth_url = {cloud.auth_url}
www_authenticate_uri = {cloud.auth_url}
username = {identity.ADMIN}
password = {cloud.password}
project_name = {identity.ADMIN}
user_domain_id = default
project_domain_id = default
token_cache_time = 2
service_type = {service}
[catalog]
path = {catalog}
projects = *
[store]
driver = glance
[openstack]
clouds_yaml = {cloud.clouds_yaml}
cloud = imageflow
[conductor]
poll = 0.2
"""


class HeatSite:
    """What is asked of imageflow and of heat, as members of the project `imageflow` and as imageflow's operator."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.stacks = Stacks(cloud.session("member"))
        self.glance = Glance("2", session=cloud.session("member"), region_name=REGION)
        catalog = folder / "catalog"
        catalog.mkdir()
        (catalog / "tiny.yaml").write_text(ENTRY.format(disk=tiny.disk()))
        sample = (ROOT / "etc/catalog/debian.yaml").read_text()
        (catalog / "debian.yaml").write_text(sample.replace("{image: debian}", f"{{file: {tiny.disk()}}}"))
        file = folder / "imageflow.conf"
        file.write_text(
            OPTIONS.format(
                cloud=cloud,
                identity=identity,
                service=SERVICE,
                state=folder / "state",
                catalog=catalog,
                project=cloud.session("member").get_project_id(),
            )
        )
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._api = Adapter(cloud.session("member"), endpoint_override=self.url)
        self.program = Program(folder / "state", "--config-file", str(file), env={"NO_PROXY": "127.0.0.1"})
        self._log = folder / "serve.log"
        self._serve: subprocess.Popen[bytes] | None = None

    # -- imageflow --------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start `imageflow serve`; returns when it answers."""
        argv = [*self.program.argv, "serve", "--listen", self.url.removeprefix("http://")]
        with open(self._log, "ab") as log:
            self._serve = subprocess.Popen(argv, env=self.program.env, stdout=log, stderr=log)
        self.await_that(self._answers)

    def end(self) -> None:
        """Stop it."""
        if self._serve is not None:
            self._serve.send_signal(signal.SIGTERM)
            self._serve.wait(60)
            self._serve = None

    def _answers(self) -> bool:
        assert self._serve is not None and self._serve.poll() is None, self._log.read_text()[-3000:]
        with contextlib.suppress(ClientException):
            return bool(self._api.get("/v1").json())
        return False

    def requests(self) -> dict[str, dict[str, Any]]:
        """The requests of the project by name."""
        return {request["name"]: request for request in self._api.get("/v1/requests").json()["requests"]}

    def request_of(self, stack: str) -> dict[str, Any]:
        """The newest request of a stack; waits until there is one."""

        def found() -> list[dict[str, Any]]:
            return [r for r in self.requests().values() if r["user"]["stack"] == stack]

        return max(self.await_that(found), key=lambda request: request["created"])

    def builds(self) -> list[dict[str, Any]]:
        """Every build that there was."""
        found: list[dict[str, Any]] = self._api.get("/v1/builds").json()["builds"]
        return found

    def build(self, id: str) -> dict[str, Any]:
        """A build."""
        found: dict[str, Any] = self._api.get(f"/v1/builds/{id}").json()
        return found

    def await_build(self, id: str, *states: str, patience: float = 180) -> None:
        """Wait until a build is in one of these states."""
        self.await_that(lambda: self.build(id)["state"] in states, patience)

    def on_machine(self, build: str, command: str) -> None:
        """What an operator does on the machine of a paused build."""
        argv = [*self.program.argv, "build", "ssh", build, "--", command]
        subprocess.run(argv, env=self.program.env, check=True, timeout=60)

    def resume(self, build: str) -> None:
        """What an operator does next."""
        self.program.run("build", "resume", build)

    def await_that(self, condition: Callable[[], T], patience: float = 60) -> T:
        """Wait until the condition returns something true, and return that."""
        end = time.monotonic() + patience
        while not (value := condition()):
            assert time.monotonic() < end, f"did not happen in {patience} s; {self._log.read_text()[-3000:]}"
            time.sleep(0.2)
        return value

    # -- the cloud ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_the_catalogue(self) -> Iterator[None]:
        """Heat, and keystone's access rules, find imageflow in the catalogue."""
        keystone = identity.Keystone(self.cloud.settings)
        made = keystone.create("service", "services", type=SERVICE, name="imageflow")["id"]
        keystone.create("endpoint", "endpoints", service_id=made, interface="public", url=self.url, region_id=REGION)
        try:
            yield
        finally:
            self.cloud.session("admin").delete(f"{self.cloud.auth_url}/services/{made}")

    @contextlib.contextmanager
    def heat(self) -> Iterator[None]:
        """Install our package as its README says, and run heat."""
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        where = ["--no-deps", "--no-build-isolation", "--upgrade", "--target", str(self.cloud.settings.heat_python)]
        subprocess.run([*pip, *where, str(_PACKAGE)], check=True, timeout=120)
        services = ("heat-engine", "heat-api")
        self.cloud.start(*services)
        try:
            yield
        finally:
            for service in services:
                self.cloud.stop(service)

    @contextlib.contextmanager
    def member_elsewhere(self) -> Iterator[Session]:
        """A member of another project, such as that of production."""
        keystone, admin = identity.Keystone(self.cloud.settings), self.cloud.session("admin")
        project = keystone.create("project", "projects", name="production", domain_id="default")["id"]
        user = keystone.create(
            "user", "users", name="production", domain_id="default", password=self.cloud.settings.password
        )["id"]
        try:
            [member] = [role["id"] for role in keystone.list("roles") if role["name"] == "member"]
            keystone.grant(project, user, member)
            yield identity.password(self.cloud.settings, "production", "production")
        finally:
            for path in (f"users/{user}", f"projects/{project}"):
                admin.delete(f"{self.cloud.auth_url}/{path}")

    def image_of_server(self, stack: str) -> str:
        """The id of the image that the server of a stack runs."""
        return str(self._server(stack)["image"]["id"])

    def await_page(self, stack: str) -> str:
        """What the server of a stack has at /; waits until it answers."""
        [[address, *_]] = self._server(stack)["addresses"].values()

        def page() -> str:
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"http://{address['addr']}/", timeout=5, proxies={"http": ""}).text
            return ""

        return self.await_that(page, 120)

    def _server(self, stack: str) -> dict[str, Any]:
        id = self.stacks.resource(stack, "server")["physical_resource_id"]
        compute = Adapter(self.cloud.session("member"), service_type="compute", region_name=REGION)
        found: dict[str, Any] = compute.get(f"/servers/{id}").json()["server"]
        return found

    def clean(self) -> None:
        """Remove what builds have left in the cloud, which are the images alone."""
        left = [line for line in leftovers(self.cloud) if not line.startswith("image ")]
        remove(self.cloud)
        assert left == []


@contextlib.contextmanager
def running(cloud: Cloud, folder: Path) -> Iterator[HeatSite]:
    """All of it."""
    site = HeatSite(cloud, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(site.clean)
        stack.callback(site.end)
        site.serve()
        stack.enter_context(site.in_the_catalogue())
        stack.enter_context(site.heat())
        yield site
