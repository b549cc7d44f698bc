"""Builds of the small flow by how they end, for the suites that go through a build's whole life."""

from __future__ import annotations

from imageflow.model import Build
from tests.small.site import Site

PARTS = 10  # of a life: each test goes through every tenth of its moments; each moment has its own build


def a_build(site: Site) -> Build:
    return site.build()


def a_pause(site: Site) -> Build:
    site.trace.set("fail-configure")
    return site.build()


def a_failure(site: Site) -> Build:
    site.trace.set("fail-configure")
    return site.build(on_failure="revert")
