"""The proxy of the chaos tests changes nothing but URLs, and holds nothing."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator

from keystoneauth1 import session
from keystoneauth1.identity import v3

from tests.servers.cloud_proxy import CloudProxy
from tests.unit.cloud_proxy.proxied_cloud import MIB, Cloud, ask, connected, upload


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_client_that_knows_the_auth_url_goes_through_it_with_everything(cloud: Cloud, proxy: CloudProxy) -> None:
    auth = v3.Password(proxy.auth_url, username="u", password="p", user_domain_id="default", project_name="p")
    client = session.Session(auth)
    assert client.get_endpoint(service_type="compute") == f"{proxy.url('nova')}/v2.1"
    got = client.get("/whoami", endpoint_filter={"service_type": "compute"})
    assert got.json() == {"token": "t0k3n"}
    assert [(service, method) for service, method, *_ in proxy.seen] == [("keystone", "POST"), ("nova", "GET")]
    assert cloud.hosts <= {url.removeprefix("http://") for url in cloud.urls.values()}
    with CloudProxy.before(client, region=None) as second:
        assert second.auth_url == f"{second.url('keystone')}/v3"
        assert ask(second, "GET", "/x") == (200, b'{"path": "/x"}')


def test_urls_in_documents_and_headers_are_its_own_and_no_others(cloud: Cloud, proxy: CloudProxy) -> None:
    with connected(proxy) as connection:
        connection.request("GET", "/versions")
        answer = connection.getresponse()
        ours = proxy.url("nova")
        assert answer.status == 300 and answer.headers["Location"] == f"{ours}/v2.1"
        links = [link["href"] for link in json.loads(answer.read())["links"]]
        assert links == [f"{ours}/v2.1/", ours, f"{cloud.urls['nova']}9/"]
        connection.request("GET", "/again")  # on the same connection
        assert connection.getresponse().read() == b'{"path": "/again"}'


def test_bodies_of_all_kinds_pass_unchanged_and_are_not_held(proxy: CloudProxy, cloud: Cloud) -> None:
    before = memory()

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            yield bytes([number % 251]) * 100_003

    digest = hashlib.sha256()
    for piece in chunks():
        digest.update(piece)
    assert upload(proxy, chunks()) == (200, digest.hexdigest().encode())
    assert cloud.received == [(100_003_000, "whole")]
    with connected(proxy) as connection:
        connection.request("GET", "/chunks")
        answer = connection.getresponse()
        size = 0
        while data := answer.read(65536):
            assert data == b"c" * len(data)
            size += len(data)
        assert size == 1600 * 65536
    assert memory() - before < 40 * MIB
    data = bytes(range(256)) * 4096
    assert upload(proxy, data) == (200, hashlib.sha256(data).hexdigest().encode())
    assert ask(proxy, "GET", "/endless") == (200, b"e" * MIB)
    assert ask(proxy, "HEAD", "/x") == (200, b"")
    assert ask(proxy, "DELETE", "/x") == (204, b"")
    assert proxy.injected == []


def test_an_answer_that_comes_before_the_data_were_sent_reaches_the_client(proxy: CloudProxy) -> None:
    assert ask(proxy, "POST", "/early", b"x" * (20 * MIB)) == (413, b'{"no": "room"}')
