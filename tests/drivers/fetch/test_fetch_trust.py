"""Whom a download trusts: credentials for their own server only, the proxy of the environment, TLS that is verified."""

from __future__ import annotations

import logging
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from imageflow import fetch
from imageflow.config import Config
from imageflow.errors import Corrupt, ImageflowError, Refused
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, MIB, OTHER, SHA, Impatient, get, part
from tests.drivers.fetch.web import Site


def test_credentials_go_to_the_server_and_nowhere_else(
    site: Site, config: Config, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plain = site.url
    site.url = plain.replace("://", "://me:s3cret@") + "?signature=t0psecret"
    site.codes, site.cut, site.headers = [503], [MIB], {}
    get(site, config, said)
    assert site.seen[-1]["Authorization"].startswith("Basic ")
    assert "signature=t0psecret" in site.seen[-1]["path"]
    site.codes = [404]
    with pytest.raises(Refused) as refused:
        get(site, config, said, "0" * 64)
    site.data = OTHER
    with pytest.raises(Corrupt) as wrong:
        get(site, config, said, "0" * 64)
    with pytest.raises(ImageflowError) as nobody:
        fetch.fetch(
            "http://me:s3cret@127.0.0.1:1/?t0psecret", "1" * 64, config=config, control=Impatient(), log=said.append
        )
    kept = "".join(p.read_text("utf-8", "replace") for p in part(config).parent.glob("*.from"))
    told = [*said, caplog.text, str(refused.value), str(wrong.value), str(nobody.value), kept]
    assert plain in " ".join(said)
    assert not [line for line in told if "s3cret" in line or "t0psecret" in line]


def test_the_proxy_of_the_environment(
    site: Site, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/disk"))
    monkeypatch.setenv("no_proxy", "")
    path = fetch.fetch("http://far.invalid/disk", SHA, config=config, control=Control(), log=said.append)
    assert path.read_bytes() == DATA
    assert site.seen[0]["path"] == "http://far.invalid/disk"


def test_tls_is_verified(config: Config, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server

    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run(
        [*argv, *subject, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"https://localhost:{server.server_address[1]}/disk"
    try:
        with pytest.raises(Refused, match="certificate is not trusted: self"):
            fetch.fetch(url, SHA, config=config, control=Control(), log=said.append)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))  # what this machine trusts
        assert fetch.fetch(url, SHA, config=config, control=Control(), log=said.append).read_bytes() == DATA
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
