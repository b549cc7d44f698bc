"""A site whose builds run on servers of the test cloud, as a plain project member with an application credential."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from novaclient.client import Client as Nova

from imageflow.host.control import Control
from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.cloud.leftovers import leftovers
from tests.small.machines import MachineSite
from tests.small.site import _FORKS, Site

_FORKS.set_forkserver_preload(["tests.small.preload", "tests.cloud.preload"])  # the clients are slow to import
_LOOPBACK = "127.0.0.1,localhost"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), _LOOPBACK)))


class NovaSite(MachineSite):
    """Its workers reach the cloud by its clouds.yaml, or through a proxy at another `auth_url`."""

    def __init__(
        self,
        cloud: Cloud,
        folder: Path,
        *,
        store: str = "directory",
        auth_url: str = "",
        patience: float = 120.0,
        timeout: float = 60.0,
        lease: float = 4.0,
        **options: str,
    ) -> None:
        self.cloud = cloud
        options = {
            "compute__driver": "nova",
            "nova__poll": "0.5",
            "janitor": "10",  # each of its rounds lists everything of ours in the cloud
            "store__driver": store,
            "openstack__cloud": "imageflow",
            "openstack__clouds_yaml": str(_clouds_yaml(cloud, folder, auth_url)),
            "openstack__patience": str(patience),
            "openstack__timeout": str(timeout),
            **options,
        }
        super().__init__(folder, lease=lease, **options)

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        Site.__exit__(self, *exception)  # the fixture nothing_left finds and removes what is left in the cloud

    def processes(self, build: Build) -> list[str]:
        """Every server that the build's log mentions, in order."""
        found = re.findall(rf"machine {build.id}-main runs as (?:server )?([0-9a-f-]{{36}})", self.log(build))
        return list(dict.fromkeys(found))

    def servers_ever(self, build: Build, role: str = "main") -> list[str]:
        """Ids of all servers that this machine of a build ever had, as the cloud's administrator sees them."""
        nova = self._admin()
        name = f"{build.id}-{role}"
        found = {
            server.id: server.created
            for deleted in (False, True)
            for server in nova.servers.list(search_opts={"all_tenants": True, "deleted": deleted, "name": f"^{name}$"})
        }
        return sorted(found, key=lambda id: (found[id], id))

    def actions(self, server: str) -> list[str]:
        """The actions of a server and their results, in order; also of a deleted server."""
        found = [a for a in self._admin().instance_action.list(server) if a.message is None]
        return [action.action for action in sorted(found, key=lambda a: str(a.start_time))]

    def _admin(self) -> Any:
        return Nova("2.93", session=self.cloud.session("admin"), region_name="RegionOne")

    def bomb(
        self, moment: str, seconds: float = 300, module: str = "tests.small.bomb", *, reached: bool = True
    ) -> None:
        """Run a worker that dies at this moment (see the module), or does everything when the moment never comes."""
        code = self.worker("idle", moment, module=module).wait(seconds)
        assert code == (-signal.SIGKILL if reached else 0), (moment, code, self.worker_log())

    def done(self, build: Build) -> None:
        """Check that the build has succeeded, and that its version is there."""
        ended = self.service.build(build.id)
        assert ended.state is BuildState.SUCCEEDED, (ended.step, ended.error, ended.hint, self.log(build)[-4000:])
        assert ended.digest is not None
        self.service.images.verify(ended.digest, Control())

    def one_server(self, build: Build, most: int = 2) -> str:
        """Check that the whole build ran in one server, which each worker adopted, and that no step ran more often; -> its id.

        But a machine that a worker has half sealed accepts no login: then the build continues in another one.
        """
        log, servers = self.log(build), self.servers_ever(build)
        assert self.processes(build) == servers, (servers, log)
        lost = log.count("It continues from its last layer")
        assert len(servers) == 1 + lost, (servers, log)
        assert lost <= 1, log
        attempts = {name: attempt for name, attempt, _state in self.states(build)}
        assert max(attempts.values()) <= most + lost, attempts
        return servers[0]

    def nothing_left(self) -> None:
        """Check that only published images and reusable layers are left of any build; without these, nothing at all."""
        super().nothing_left()
        assert self.in_cloud() == []
        for version in self.service.images.versions():
            self.service.images.delete(version.digest)
        self.service.compute.layers.collect(0.0, 0.0, lambda _: False)
        assert leftovers(self.cloud) == []

    def in_cloud(self, but: Collection[str] = ("'imageflow:used'", "'imageflow:whole'")) -> list[str]:
        """What is in the project, without whole layers and published images."""
        return [
            line for line in leftovers(self.cloud) if ", active)" not in line or not any(word in line for word in but)
        ]

    def await_over(self, *wanted: Build, seconds: float = 300) -> None:
        """Wait until the builds have ended, or are paused, and their jobs are gone."""
        over = (BuildState.SUCCEEDED, BuildState.PAUSED, BuildState.FAILED, BuildState.ABORTED, BuildState.CANCELLED)
        end = time.monotonic() + seconds
        for build in wanted:
            self.await_state(build, *over, seconds=max(1.0, end - time.monotonic()))
        self.await_that(lambda: self.service.board.job_count == 0)


def _clouds_yaml(cloud: Cloud, folder: Path, auth_url: str) -> Path:
    if not auth_url:
        return cloud.clouds_yaml
    known = yaml.safe_load(cloud.clouds_yaml.read_text())
    for entry in known["clouds"].values():
        entry["auth"]["auth_url"] = auth_url
    to = folder / "clouds.yaml"
    to.write_text(yaml.safe_dump(known))
    return to
