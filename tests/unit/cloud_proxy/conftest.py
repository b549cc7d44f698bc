"""Two services that are no cloud, and the proxy before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from tests.servers.cloud_proxy import CloudProxy
from tests.unit.cloud_proxy.proxied_cloud import Cloud, Handler


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    found = Cloud({})
    servers = []
    for name in ("keystone", "nova"):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cloud": found}))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it meets resets, as it should
        found.urls[name] = f"http://127.0.0.1:{server.server_port}"
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(cloud: Cloud) -> Iterator[CloudProxy]:
    with CloudProxy(cloud.urls, seed=7) as running:
        yield running
