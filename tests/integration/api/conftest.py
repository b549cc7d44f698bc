"""The HTTP interface with small limits: one for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.http_listener import Site, configured, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    config = configured(tmp_path_factory.mktemp("api"), api={"max_body": 64, "timeout": 2.0})
    with serving(config) as site:
        yield site
