"""Bases and ISOs that are replaced upstream: their digests are found in the checksums published beside them."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow import config, inputs, recipe
from imageflow.errors import Corrupt, ImageflowError, InputChanged, RecipeError, Refused, Unavailable
from imageflow.host.control import Control
from imageflow.inputs import checksums, fingerprint
from imageflow.tasks.prepare_machine import fetched
from imageflow.tasks.workbench import Workbench

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
LONG = hashlib.sha512(b"a").hexdigest()
URL = "https://cloud.example/images/12/latest/disk.qcow2"


def find(text: str, url: str = URL) -> str:
    return checksums.find(text.encode(), url, "SUMS")


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  disk.qcow2\n",
        f"{A} *disk.qcow2\n",
        f"{B}  other\r\n{A}  disk.qcow2\r\n",
        f"{A.upper()}\t./disk.qcow2",
        f"{A}  latest/disk.qcow2\n{B}  older/disk.qcow2\n",
        f"{B}  disk.qcow2\n{A}  latest/disk.qcow2\n",
        f"{A}  disk.qcow2\n{A}  disk.qcow2\n",
        f"SHA256 (disk.qcow2) = {A}\n",
        f"# disk.qcow2: 1 bytes\nSHA512 (disk.qcow2) = {LONG}\nSHA256 (disk.qcow2) = {A}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{A}  disk.qcow2\n-----BEGIN PGP SIGNATURE-----\n\niQ==\n",
        f"{A}\n",
        f"\n{A}  disk.qcow2  \n\n",
    ],
)
def test_the_usual_forms(text: str) -> None:
    assert find(text) == A


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_that_was_written_on_windows(encoding: str) -> None:
    listed = f"{B}  other.qcow2\r\n{A}  disk.qcow2\r\n".encode(encoding)
    assert checksums.find(listed, URL, "SUMS") == A


def test_a_comment_in_another_encoding_does_not_matter() -> None:
    assert checksums.find(f"# Prüfsummen\n{A}  disk.qcow2\n".encode("latin-1"), URL, "SUMS") == A


def test_names_with_spaces_and_escapes() -> None:
    assert find(f"{A}  a disk.img", "http://x/a%20disk.img?token=x#y") == A


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (f"{LONG}  disk.qcow2\n", RecipeError, "SUMS has SHA-512 of disk.qcow2 (name the one with SHA-256)"),
        (f"SHA512 (disk.qcow2) = {LONG}\n", RecipeError, "SUMS has SHA-512 of disk.qcow2"),
        (f"SHA1 (disk.qcow2) = {'0' * 40}\n", RecipeError, "SUMS has SHA-1 of disk.qcow2"),
        (f"{'0' * 32}  disk.qcow2\n", RecipeError, "SUMS has MD5 of disk.qcow2"),
        (f"SHA512/256 (disk.qcow2) = {A}\n", RecipeError, "SUMS has no SHA-256 of disk.qcow2"),
        (f"{A}  disk.raw\n", RecipeError, "SUMS has no SHA-256 of disk.qcow2 (check that it belongs to the url)"),
        (f"{A}  xdisk.qcow2\n", RecipeError, "SUMS has no SHA-256 of disk.qcow2"),
        (f"{A}  older/disk.qcow2\n", RecipeError, "SUMS has no SHA-256 of disk.qcow2"),
        ("<html>log in</html>", RecipeError, "SUMS has no SHA-256 of disk.qcow2 (it is not a list of checksums)"),
        ("", RecipeError, "it is not a list of checksums"),
        (f"{A}\n{B}\n", RecipeError, "it is not a list of checksums"),
        (f"{A}  disk.qcow2\n{B}  disk.qcow2\n", Refused, "SUMS has 2 different SHA-256 of disk.qcow2"),
    ],
)
def test_what_can_not_be_used(text: str, error: type[ImageflowError], said: str) -> None:
    with pytest.raises(error) as caught:
        find(text)
    assert said in str(caught.value)


@given(data=st.binary(max_size=200) | st.text(alphabet="0aF() =*./\\\n\rdiskSHA256", max_size=200).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    try:
        assert len(checksums.find(data, URL, "SUMS")) == 64
    except (RecipeError, Refused) as error:
        assert str(error).isprintable()


# -- in a recipe ---------------------------------------------------------------------------------


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Site(http.server.ThreadingHTTPServer):
    answer: tuple[int, bytes] = (200, b"")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    return config.load(["/dev/null"], state_dir=str(tmp_path / "state"))


def boot(folder: Path, base: str) -> recipe.ImageRecipe:
    file = folder / "recipe.yaml"
    file.write_text(f"images:\n  - name: web\n    method: boot\n    base: {base}\n")
    return recipe.load(file).images[0]


def test_what_is_replaced_upstream_is_another_pin_and_another_build(
    site: Site, tmp_path: Path, settings: config.Config
) -> None:
    image = boot(tmp_path, f"{{url: {site.url}/x/disk.qcow2, checksums: {site.url}/x/SHA256SUMS}}")
    assert image.canonical()["base"] == {"url": f"{site.url}/x/disk.qcow2", "checksums": f"{site.url}/x/SHA256SUMS"}
    site.answer = (200, f"{A}  disk.qcow2\n".encode())
    before = inputs.pin(image, tmp_path, settings)
    assert (before["base:url"], inputs.source(image, tmp_path, settings)) == (A, A)
    site.answer = (200, f"{B}  disk.qcow2\n".encode())
    after = inputs.pin(image, tmp_path, settings)
    assert {name for name in before if before[name] != after[name]} == {"base:url"}
    keys = [fingerprint.build_key(image.canonical(), each) for each in (before, after)]
    assert keys[0] != keys[1]


def test_an_iso_and_a_local_list(tmp_path: Path, settings: config.Config) -> None:
    (tmp_path / "SUMS").write_text(f"{A}  disk.iso\n")
    (tmp_path / "a.cfg").write_text("")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "images:\n  - name: metal\n    method: install\n    machine: {disk: 4}\n    answers: {preseed: a.cfg}\n"
        "    iso: {url: http://x.invalid/disk.iso, checksums: ./SUMS}\n"
    )
    image = recipe.load(file).images[0]
    assert image.canonical()["iso"]["checksums"] == "SUMS"
    found = inputs.pin(image, tmp_path, settings)
    assert found["iso"] == A
    assert "file:SUMS" not in found, "only the digest in it goes into the image"


def test_a_server_that_does_not_answer_is_unavailable(site: Site, tmp_path: Path, settings: config.Config) -> None:
    image = boot(tmp_path, f"{{url: {site.url}/disk.qcow2, checksums: {site.url}/SUMS}}")
    site.answer = (503, b"")
    with pytest.raises(Unavailable, match=r"the checksums: .*/SUMS answered 503"):
        inputs.pin(image, tmp_path, settings)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b""), "recipe.yaml:4: images[0].base.checksums: the checksums: there is no http://"),
        ((403, b""), "SUMS answered 403"),
        ((200, b"x" * (5 << 20)), "SUMS is larger than 4 MiB"),
        ((200, b"hello"), "SUMS has no SHA-256 of disk.qcow2 (it is not a list of checksums)"),
    ],
)
def test_a_server_without_a_list(
    answer: tuple[int, bytes], said: str, site: Site, tmp_path: Path, settings: config.Config
) -> None:
    image = boot(tmp_path, f"{{url: {site.url}/disk.qcow2, checksums: {site.url}/SUMS}}")
    site.answer = answer
    with pytest.raises(RecipeError) as caught:
        inputs.pin(image, tmp_path, settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("{url: http://x/d}", "has a url without its sha256 (add 'sha256:'"),
        (f"{{url: http://x/d, sha256: {A}, checksums: http://x/s}}", "has a sha256 and checksums"),
        ("{url: http://x/, checksums: http://x/s}", "has a url without a file name, and checksums"),
        ("{url: http://x/d, checksums: ftp://x/s}", "has checksums that can't be fetched"),
        ("{image: a, checksums: http://x/s}", "has checksums without a url"),
        ("{url: http://x/d, checksums: nowhere}", "images[0].base.checksums: there is no file nowhere"),
    ],
)
def test_refused_in_a_recipe(base: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        boot(tmp_path, base)
    assert said in str(caught.value)


def test_what_was_replaced_after_the_build_was_planned_is_said_to_be(tmp_path: Path, settings: config.Config) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"b")

    bench = Workbench(  # no machine is needed to fetch
        build=None,
        config=settings,
        compute=None,
        ledger=None,
        control=Control(),
        log=lambda line: None,
        progress=lambda done, phase: None,
    )

    def get(source: dict[str, str], digest: str) -> Path:
        return fetched(recipe.MadeFrom("base", **source), digest, bench)

    assert get({"url": disk.as_uri(), "checksums": "SUMS"}, B) == disk
    with pytest.raises(InputChanged, match="it was replaced since the build was planned"):
        get({"url": disk.as_uri(), "checksums": "SUMS"}, A)
    with pytest.raises(Corrupt):
        get({"url": disk.as_uri(), "sha256": A}, A)
