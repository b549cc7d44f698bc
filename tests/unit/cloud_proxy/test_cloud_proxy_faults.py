"""The faults of the chaos tests' proxy are what they are called, as often as they are asked for, and recorded."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from typing import Any

import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from tests.servers.cloud_faults import KINDS, STATUSES
from tests.servers.cloud_proxy import CloudProxy
from tests.unit.cloud_proxy.proxied_cloud import BROKEN, MIB, Cloud, ask, connected, upload


@pytest.mark.parametrize("kind", ["401", "404", "409", "500", "503"])
def test_errors_are_answered_without_forwarding(kind: str, proxy: CloudProxy, cloud: Cloud) -> None:
    proxy.inject({kind: 1})
    status, body = ask(proxy, "DELETE", "/servers/1")
    assert status == int(kind) and "fault of the test's proxy" in body.decode()
    assert cloud.done == []
    [one] = proxy.injected
    assert (one.service, one.kind, one.method, one.path) == ("nova", kind, "DELETE", "/servers/1")
    others, _ = ask(proxy, "GET", "/servers")
    assert others == (200 if kind in ("404", "409") else int(kind))
    proxy.calm()
    assert ask(proxy, "DELETE", "/servers/1") == (204, b"")
    assert f"{kind}: nova DELETE /servers/1" in proxy.report()


def test_a_token_can_not_be_refused_by_keystone_itself(proxy: CloudProxy) -> None:
    proxy.inject({"401": 0.5, "409": 0.5})
    with connected(proxy, "keystone") as connection:
        connection.request("POST", "/v3/auth/tokens", b"{}")
        assert connection.getresponse().status == 201


def test_a_reset_comes_before_and_a_loss_after_the_request_was_done(proxy: CloudProxy, cloud: Cloud) -> None:
    proxy.once("reset", "POST", "^/servers$")
    with pytest.raises(ConnectionError):
        ask(proxy, "POST", "/servers?a=1", b"{}")
    assert cloud.done == []
    proxy.once("lost", "POST", "^/servers$", service="nova")
    assert ask(proxy, "POST", "/other", b"{}")[0] == 200
    with pytest.raises(ConnectionError):
        ask(proxy, "POST", "/servers", b"{}")
    assert cloud.done == [("POST", "/other"), ("POST", "/servers")]
    assert ask(proxy, "POST", "/servers", b"{}")[0] == 200
    assert [(each.kind, each.path) for each in proxy.injected] == [("reset", "/servers?a=1"), ("lost", "/servers")]


def test_a_delay(proxy: CloudProxy) -> None:
    proxy.inject({"delay": 1}, longest=0.6)
    began = time.monotonic()
    assert ask(proxy, "GET", "/x")[0] == 200
    assert time.monotonic() - began >= proxy.injected[0].seconds > 0


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_cut_upload(chunked: bool, proxy: CloudProxy, cloud: Cloud) -> None:
    """Small ones and large ones: never does all of it come, with its end."""
    proxy.inject({"cut-upload": 1})
    sizes = (1, 1000, MIB, 20 * MIB)
    for number, size in enumerate(sizes, 1):
        with pytest.raises(BROKEN):
            upload(proxy, iter([b"u" * size]) if chunked else b"u" * size)
        got, how = cloud.until_received(number)[-1]
        assert how == "cut" and got <= size
    assert ask(proxy, "PUT", "/file", b"no image", Content_Type="application/json")[0] == 200
    assert len(proxy.injected) == len(sizes)


@pytest.mark.parametrize("path", ["/bytes", "/chunks", "/endless", "/some.json"])
def test_a_cut_download(path: str, proxy: CloudProxy) -> None:
    proxy.inject({"cut-download": 1})
    for _ in range(5):
        with pytest.raises(BROKEN):
            ask(proxy, "GET", path)
    assert len(proxy.injected) == 5


def test_rates_are_kept_and_the_seed_decides(cloud: Cloud) -> None:
    def kinds(seed: int) -> list[str]:
        with CloudProxy(cloud.urls, seed=seed) as proxy, connected(proxy) as connection:
            proxy.inject({"500": 0.2, "503": 0.1, "404": 0.7})
            for _ in range(300):
                connection.request("GET", "/x")
                connection.getresponse().read()
            return [each.kind for each in proxy.injected]

    first = kinds(1)
    assert kinds(1) == first != kinds(2)
    assert 35 <= first.count("500") <= 90 and 12 <= first.count("503") <= 55 and "404" not in first


def test_an_outage(proxy: CloudProxy) -> None:
    with connected(proxy) as open_one:
        open_one.request("GET", "/x")
        open_one.getresponse().read()
        with proxy.down("nova"):
            with pytest.raises(ConnectionRefusedError):
                ask(proxy, "GET", "/x")
            with pytest.raises(BROKEN):
                open_one.request("GET", "/x")
                open_one.getresponse()
            with connected(proxy, "keystone") as other:
                other.request("GET", "/v3")
                assert other.getresponse().status == 200
    assert ask(proxy, "GET", "/x")[0] == 200


def test_a_cloud_that_is_away_is_away_through_it(proxy: CloudProxy, cloud: Cloud) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with CloudProxy({"nova": f"http://127.0.0.1:{nobody.getsockname()[1]}"}) as broken, pytest.raises(BROKEN):
            ask(broken, "GET", "/x")


def test_a_client_that_goes_takes_its_upload_with_it(proxy: CloudProxy, cloud: Cloud) -> None:
    """As when imageflow is killed: the cloud sees the end of the connection, not the end of the data."""
    with connected(proxy) as connection:
        connection.putrequest("PUT", "/file")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"begin")
        assert connection.sock is not None
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    [(size, how)] = cloud.until_received(1)
    assert size <= 5 and how == "cut"


def test_a_client_of_openstack_meets_what_it_knows(proxy: CloudProxy) -> None:
    auth = v3.Password(proxy.auth_url, username="u", password="p", user_domain_id="default", project_name="p")
    client = session.Session(auth)

    def get() -> Any:
        return client.get("/whoami", endpoint_filter={"service_type": "compute"})

    assert get().status_code == 200
    for kind, error in {
        "500": exceptions.InternalServerError,
        "503": exceptions.ServiceUnavailable,
        "reset": exceptions.ConnectFailure,
        "lost": exceptions.ConnectFailure,
    }.items():
        proxy.once(kind, "GET", "whoami")
        with pytest.raises(error):
            get()
    before = [path for _, _, path, _ in proxy.seen].count("/v3/auth/tokens")
    proxy.once("401", "GET", "whoami")
    assert get().status_code == 200  # with a new token
    assert [path for _, _, path, _ in proxy.seen].count("/v3/auth/tokens") == before + 1
    assert {each.kind for each in proxy.injected} < set(KINDS)


def test_whatever_goes_wrong_was_injected(proxy: CloudProxy) -> None:
    """Many clients at once: each fault is in the record, and everything else is answered as without a proxy."""
    proxy.inject(dict.fromkeys(KINDS, 0.05), longest=0.05)
    data = bytes(range(256)) * 2048
    requests: list[tuple[str, str, bytes | None, tuple[int, bytes]]] = [
        ("PUT", "/file", data, (200, hashlib.sha256(data).hexdigest().encode())),
        ("GET", "/bytes", None, (200, b"b" * MIB)),
        ("GET", "/endless", None, (200, b"e" * MIB)),
        ("DELETE", "/it", None, (204, b"")),
    ]
    met: list[str] = []

    def client(number: int) -> None:
        for turn in range(60):
            method, path, body, expected = requests[(number + turn) % len(requests)]
            try:
                got = ask(proxy, method, path, body, Content_Type="application/octet-stream")
            except BROKEN:
                met.append("broken")
            else:
                met.append("" if got == expected else str(got[0]))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    injected = [each.kind if each.kind in STATUSES else "broken" for each in proxy.injected if each.kind != "delay"]
    assert len(met) == 480 and set(injected) == {"broken", *STATUSES}
    assert sorted(filter(None, met)) == sorted(injected), proxy.report()
