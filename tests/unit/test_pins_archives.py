"""Archives: the host's mirrors found in both formats, suites as diskimage-builder reads them, Release files fetched."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imageflow import config, inputs, recipe
from imageflow.errors import RecipeError, Refused, Unavailable
from imageflow.host.addresses import Policy
from imageflow.inputs import archives
from imageflow.inputs.archives import Suite

DEBIAN = ["debian-minimal", "debootstrap"]
UBUNTU = ["ubuntu-minimal", "ubuntu-common", "debootstrap"]
RELEASE = b"-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Test\nDate: today\nSHA256:\n"


def host(etc: Path, *, distribution: str = "debian", codename: str = "bookworm", **sources: str) -> Path:
    """An /etc with apt's configuration; `a_list` becomes sources.list.d/a.list."""
    folder = etc / "apt" / "sources.list.d"
    folder.mkdir(parents=True)
    (etc / "os-release").write_text(f'NAME="x"\nID={distribution}\nVERSION_CODENAME="{codename}"\n')
    for name, text in sources.items():
        if name == "sources":
            (etc / "apt" / "sources.list").write_text(text)
        else:
            (folder / name.replace("_", ".")).write_text(text)
    return etc


DEB822 = """\
# modern
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# classic
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/x.gpg] http://one.example/debian/ bookworm main contrib # home
deb http://one.example/debian bookworm-updates main
deb http://sec.example/debian-security bookworm-security main
"""
OTHERS = "deb https://vendor.example/apt bookworm main\ndeb https://docker.example/linux/debian bookworm stable\n"


@pytest.mark.parametrize(
    ("sources", "distribution", "security"),
    [
        ({"debian_sources": DEB822}, "http://mirror.example/debian", "http://mirror.example/debian-security"),
        ({"sources": ONE_LINE}, "http://one.example/debian", "http://sec.example/debian-security"),
        (
            {"sources": OTHERS, "debian_sources": DEB822},
            "http://mirror.example/debian",
            "http://mirror.example/debian-security",
        ),
        ({"a_list": OTHERS, "sources": ONE_LINE}, "http://one.example/debian", "http://sec.example/debian-security"),
        (
            {"debian_sources": DEB822.replace("Types: deb\n", "Enabled: no\nTypes: deb\n")},
            "http://mirror.example/debian",
            "",
        ),
        ({"debian_sources": DEB822.replace("bookworm", "trixie")}, "", ""),
        ({"a_list": "deb\ndeb [\ndeb http://x\n\0\n", "b_sources": "::::\nTypes\n\n\n"}, "", ""),
        ({}, "", ""),
    ],
)
def test_the_mirrors_of_the_host(sources: dict[str, str], distribution: str, security: str, tmp_path: Path) -> None:
    found = archives.mirrors({}, "debian", host(tmp_path, **sources))
    assert (found.distribution, found.security) == (distribution, security)
    expected = {"DIB_DISTRIBUTION_MIRROR": distribution, "DIB_DEBIAN_SECURITY_MIRROR": security}
    assert found.environment() == {name: value for name, value in expected.items() if value}


def test_a_list_of_mirrors(tmp_path: Path) -> None:
    (tmp_path / "mirrors.list").write_text(
        "# best first\nhttp://near.example/debian\tpriority:1\nhttp://far.example/debian\n"
    )
    text = DEB822.replace("http://mirror.example/debian/", f"mirror+file://{tmp_path}/mirrors.list")
    etc = host(tmp_path / "etc", debian_sources=text)
    assert archives.mirrors({}, "debian", etc).distribution == "http://near.example/debian"


def test_the_definition_wins_over_the_host(tmp_path: Path) -> None:
    etc = host(tmp_path, debian_sources=DEB822)
    environment = {"DIB_DISTRIBUTION_MIRROR": "http://mine/debian", "DIB_DEBIAN_SECURITY_MIRROR": "http://mine/sec"}
    assert archives.mirrors(environment, "debian", etc) == archives.Mirrors(
        "debian", "http://mine/debian", "http://mine/sec"
    )
    more = environment | {"DIB_DEBIAN_DISTRIBUTION_MIRROR": "http://really/debian"}
    assert archives.mirrors(more, "debian", etc).distribution == "http://really/debian"


def test_a_host_of_another_family_says_nothing(tmp_path: Path) -> None:
    etc = host(tmp_path, debian_sources=DEB822)
    assert archives.mirrors({}, "ubuntu", etc).environment() == {}
    assert archives.mirrors({"DIB_DISTRIBUTION_MIRROR": "http://x"}, "", etc).environment() == {}


def test_the_suites_of_debian(tmp_path: Path) -> None:
    etc = host(tmp_path, debian_sources=DEB822)
    main, security = "http://mirror.example/debian", "http://mirror.example/debian-security"

    def suites(environment: dict[str, str]) -> dict[str, Suite]:
        return archives.suites(environment, DEBIAN, "amd64", etc)

    assert suites({"DIB_RELEASE": "bookworm"}) == {
        "archive:bookworm": Suite(main, "bookworm"),
        "archive:bookworm-updates": Suite(main, "bookworm-updates"),
        "archive:bookworm-security": Suite(security, "bookworm-security"),
    }
    assert list(suites({"DIB_RELEASE": "unstable"})) == ["archive:unstable"]
    assert "archive:stable-security" in suites({})
    own = "default:deb http://a/debian bookworm main\nextra:deb [trusted=yes] http://b/debian/ bookworm main\n"
    assert suites({"DIB_RELEASE": "bookworm", "DIB_APT_SOURCES_CONF": own}) == {
        "archive:bookworm": Suite(main, "bookworm"),
        "archive:bookworm#2": Suite("http://a/debian", "bookworm"),
        "archive:bookworm#3": Suite("http://b/debian", "bookworm"),
    }


def test_without_any_configuration_the_default_is_read_from_diskimage_builder(tmp_path: Path) -> None:
    found = archives.suites({"DIB_RELEASE": "bookworm"}, DEBIAN, "amd64", tmp_path)
    assert len(found) == 3
    assert all(suite.uri.startswith("http") for suite in found.values())
    ours = archives.suites({}, UBUNTU, "amd64", tmp_path)
    ports = archives.suites({}, UBUNTU, "arm64", tmp_path)
    assert list(ours) == list(ports)
    assert len(ours) == 4
    assert {suite.uri for suite in ours.values()} != {suite.uri for suite in ports.values()}
    assert archives.suites({}, ["fedora"], "amd64", tmp_path) == {}


def test_the_suites_of_ubuntu(tmp_path: Path) -> None:
    etc = host(tmp_path, distribution="ubuntu", codename="noble", sources="deb http://u.example/ubuntu noble main\n")
    environment = {"DIB_RELEASE": "noble", "DIB_UBUNTU_MIRROR_DISTS": "updates,security"}
    found = archives.suites(environment, UBUNTU, "amd64", etc)
    assert list(found) == ["archive:noble", "archive:noble-updates", "archive:noble-security"]
    cloud = archives.suites(
        environment | {"DIB_CLOUD_IMAGES": "http://c/x/"}, ["ubuntu", "ubuntu-common"], "amd64", etc
    )
    assert cloud["archive:noble-cloud-images"] == Suite("http://c/x", "noble-cloud-images", "SHA256SUMS")


# -- fetching ------------------------------------------------------------------------------------


class Mirror(ThreadingHTTPServer):
    """A web server whose answers a test sets: path -> list of (status, body), the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.uri = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        answers = self.server.answers.get(self.path, [(404, b"")])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:  # cut off
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 10))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", body.decode())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


LOOPBACK = Policy(["127.0.0.1"], "[downloads] allow")
DIGEST = hashlib.sha256(RELEASE).hexdigest()


def test_the_release_file_is_pinned(mirror: Mirror) -> None:
    mirror.answers["/debian/dists/bookworm/InRelease"] = [(200, RELEASE)]
    assert archives.digest(Suite(f"{mirror.uri}/debian", "bookworm"), {}, LOOPBACK) == DIGEST
    mirror.answers["/debian/dists/old/Release"] = [(200, RELEASE)]
    assert archives.digest(Suite(f"{mirror.uri}/debian", "old"), {}, LOOPBACK) == DIGEST


def test_a_file_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "with space" / "dists" / "bookworm"
    folder.mkdir(parents=True)
    (folder / "InRelease").write_bytes(RELEASE)
    assert archives.digest(Suite(f"file://{tmp_path}/with%20space", "bookworm"), {}, LOOPBACK) == DIGEST
    os.unlink(folder / "InRelease")
    os.mkfifo(folder / "InRelease")
    with pytest.raises(RecipeError, match="suite bookworm is not in the archive"):
        archives.digest(Suite(f"file://{tmp_path}/with%20space", "bookworm"), {}, LOOPBACK)


@pytest.mark.parametrize("trouble", [(500, b""), (503, b"x"), (429, b""), (0, RELEASE[:20])])
def test_what_passes_is_waited_for(trouble: tuple[int, bytes], mirror: Mirror) -> None:
    mirror.answers["/dists/a/InRelease"] = [trouble, trouble, (200, RELEASE)]
    assert archives.digest(Suite(mirror.uri, "a"), {}, LOOPBACK) == DIGEST


def test_what_stays_is_unavailable(mirror: Mirror) -> None:
    mirror.answers["/dists/a/InRelease"] = [(502, b"")]
    with pytest.raises(Unavailable, match=r"suite a: .*/dists/a/InRelease answered 502"):
        archives.digest(Suite(mirror.uri, "a"), {}, LOOPBACK)
    assert len(mirror.asked) == 4
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(Unavailable, match=r"Connection refused"):
            archives.digest(Suite(f"http://127.0.0.1:{port}", "a"), {}, LOOPBACK)


def test_a_suite_that_is_not_there_names_the_way_out(mirror: Mirror) -> None:
    with pytest.raises(RecipeError) as caught:
        archives.digest(Suite(f"{mirror.uri}/debian", "bookwrm"), {}, LOOPBACK)
    assert f"suite bookwrm is not in the archive {mirror.uri}/debian" in str(caught.value)
    assert "DIB_RELEASE" in caught.value.hint
    assert len(mirror.asked) == 2


def test_a_login_page_is_no_release_file(mirror: Mirror) -> None:
    mirror.answers["/dists/a/InRelease"] = [(200, b"<html>please log in</html>")]
    with pytest.raises(Refused, match="is not a Release file"):
        archives.digest(Suite(mirror.uri, "a"), {}, LOOPBACK)


def test_credentials_reach_the_mirror_only(mirror: Mirror) -> None:
    uri = mirror.uri.replace("http://", "http://me:let%40me@")
    with Mirror() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        other.answers["/elsewhere"] = [(200, RELEASE)]
        mirror.answers["/dists/a/InRelease"] = [(302, f"{other.uri}/elsewhere".encode())]
        assert archives.digest(Suite(uri, "a"), {}, LOOPBACK) == DIGEST
        other.shutdown()
        thread.join()
    assert mirror.asked == [("/dists/a/InRelease", "Basic bWU6bGV0QG1l")]
    assert other.asked == [("/elsewhere", None)]
    for status in (401, 403, 500, 404):
        mirror.answers["/dists/a/InRelease"] = [(status, b"")]
        with pytest.raises((Refused, Unavailable, RecipeError)) as caught:
            archives.digest(Suite(uri, "a"), {}, LOOPBACK)
        assert "let" not in str(caught.value).replace("let me", "")


@pytest.mark.parametrize(
    "to", ["http://localhost:{port}/x", "http://[::ffff:127.0.0.1]:{port}/x", "ftp://127.0.0.1:{port}/x"]
)
@pytest.mark.parametrize("proxied", [False, True])
def test_a_redirect_into_this_host_is_refused(mirror: Mirror, to: str, proxied: bool) -> None:
    """The mirror itself is allowed; what it redirects to is another service of this host."""
    with Mirror() as other:
        port = other.server_address[1]
        only = Policy([mirror.uri.removeprefix("http://")], "[downloads] allow")
        uri = "http://archive.invalid" if proxied else mirror.uri
        mirror.answers[f"{uri if proxied else ''}/dists/a/InRelease"] = [(302, to.format(port=port).encode())]
        with pytest.raises(Refused) as refused:
            archives.digest(Suite(uri, "a"), {"http_proxy": mirror.uri} if proxied else {}, only)
    assert "redirect" in str(refused.value)
    assert other.asked == []
    assert len(mirror.asked) == 1


@pytest.mark.parametrize("uri", ["http://", "http://[x", "http://a b/", "http://h:port/", "http://\udc80/"])
def test_a_url_that_is_none(uri: str) -> None:
    with pytest.raises(RecipeError, match="is not a usable URL"):
        archives.digest(Suite(uri, "a"), {}, LOOPBACK)


def test_other_schemes_are_said_to_be_unpinned() -> None:
    assert archives.digest(Suite("ftp://host/debian", "a"), {}, LOOPBACK) == "unpinned: a ftp mirror can't be read"


def test_a_proxy_of_the_definition_is_used(mirror: Mirror) -> None:
    mirror.answers["http://archive.invalid/dists/a/InRelease"] = [(200, RELEASE)]
    suite = Suite("http://archive.invalid", "a")
    assert archives.digest(suite, {"http_proxy": mirror.uri}, LOOPBACK) == DIGEST


def test_pinning_a_debian_image_from_a_mirror(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the way, in parallel, with credentials in a secret and nowhere else."""
    suites = ["bookworm", "bookworm-updates", "bookworm-security"]
    for suite in suites:
        mirror.answers[f"/debian/dists/{suite}/InRelease"] = [(200, RELEASE + suite.encode())]
    uri = mirror.uri.replace("http://", "http://me:letmein@")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "- imagename: a\n  elements: [debian-minimal]\n  types: [tar]\n  environment:\n    DIB_RELEASE: bookworm\n"
        "    DIB_DISTRIBUTION_MIRROR: {secret: mirror}\n    DIB_DEBIAN_SECURITY_MIRROR: {secret: mirror}\n"
    )
    (image,) = recipe.load(file).images
    conf = config.load(["/dev/null"], state_dir=str(tmp_path / "state"))
    monkeypatch.setenv("IMAGEFLOW_SECRET_MIRROR", f"{uri}/debian")
    start = time.perf_counter()
    found = inputs.pin(image, tmp_path, conf)
    assert time.perf_counter() - start < 5
    for suite in suites:
        assert found[f"archive:{suite}"] == hashlib.sha256(RELEASE + suite.encode()).hexdigest()
    assert found["tool:debootstrap"]
    assert "letmein" not in str(found) + str(image.canonical())
    assert len(mirror.asked) == 3
