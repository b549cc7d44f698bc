"""Builds through a proxy that makes a bad cloud of a good one: all end right, and nothing leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows import test_crash_boot, test_crash_install
from tests.servers.cloud_faults import KINDS
from tests.servers.cloud_proxy import CloudProxy
from tests.slices import choice

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
# what a failed test says of its faults is what repeats it
SEED = int(os.environ.get("IMAGEFLOW_SEED", choice().number))
MODERATE = {
    "401": 0.01,
    "404": 0.2,  # of DELETEs
    "409": 0.05,
    "500": 0.02,
    "503": 0.02,
    "reset": 0.02,
    "lost": 0.02,
    "delay": 0.01,
    "cut-upload": 0.3,
    "cut-download": 0.02,
}
# One of each kind for certain, where it hurts: the pattern is of a request that every build makes.
CERTAIN = [
    ("lost", "POST", r"/servers$"),
    ("500", "POST", r"/servers$"),
    ("lost", "POST", r"/servers/[^/]+/action$"),
    ("409", "POST", r"/servers/[^/]+/action$"),
    ("404", "DELETE", r"/servers/"),
    ("lost", "DELETE", r"/servers/"),
    ("404", "DELETE", r"/images/"),
    ("lost", "POST", r"/os-keypairs$"),
    ("404", "DELETE", r"/os-keypairs/"),
    ("lost", "POST", r"/images$"),
    ("cut-upload", "PUT", r"/images/[^/]+/file$"),
    ("cut-download", "GET", r"/images/[^/]+/file$"),
    ("401", "GET", r"/servers/[^/]+$"),
    ("503", "GET", r"/images$"),
    ("reset", "GET", r"/servers/detail$"),
    ("delay", "GET", r"/flavors/detail$"),
]


@contextmanager
def bad_cloud(cloud: Cloud, folder: Path, seed: int, **options: str) -> Iterator[tuple[NovaSite, CloudProxy]]:
    with (
        CloudProxy.before(cloud.session(), seed=seed, region="RegionOne") as proxy,
        NovaSite(cloud, folder, auth_url=proxy.auth_url, store="glance", patience=200.0, **options) as site,
    ):
        print(f"IMAGEFLOW_SEED={seed}")
        try:
            yield site, proxy
        finally:
            proxy.calm()
            print(proxy.report())
            print(site.worker_log())


def survived(site: NovaSite, proxy: CloudProxy, files: list[Path], seconds: float = 1200) -> None:
    """Builds of these recipes, under moderate chaos from the first to the last request of their workers."""
    builds = [site.service.submit(file)[0].build for file in files]
    for fault in CERTAIN:
        proxy.once(*fault)
    proxy.inject(MODERATE)
    site.worker()
    site.await_over(*builds, seconds=seconds)
    for worker in site.workers:
        worker.terminate()  # its janitor tidies up meanwhile
        worker.wait(60)
    proxy.calm()
    for build in builds:
        site.done(build)
    site.service.reap()
    site.nothing_left()
    assert {fault.kind for fault in proxy.injected} == set(KINDS)


@pytest.mark.sliced(of=10, group="long on the cloud")
@pytest.mark.parametrize("round", range(2))
def test_a_boot(cloud: Cloud, nothing_left: None, tmp_path: Path, round: int) -> None:
    with bad_cloud(cloud, tmp_path, SEED + round) as (site, proxy):
        survived(site, proxy, [test_crash_boot.recipe(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize("round", range(3))
def test_an_install(cloud: Cloud, nothing_left: None, tmp_path: Path, round: int) -> None:
    with bad_cloud(cloud, tmp_path, SEED + round) as (site, proxy):
        survived(site, proxy, [test_crash_install.recipe(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize("round", range(3))
def test_two_at_once(cloud: Cloud, nothing_left: None, tmp_path: Path, round: int) -> None:
    with bad_cloud(cloud, tmp_path, SEED + 10 + round) as (site, proxy):
        boot = test_crash_boot.recipe(tmp_path)
        survived(site, proxy, [boot, test_crash_install.recipe(tmp_path, name="installed")])
