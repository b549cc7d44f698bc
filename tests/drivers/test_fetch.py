"""Downloads against a real server that breaks off, lies, changes its mind, or does not answer."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow import fetch
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import Cancelled, Corrupt, ImageflowError, NoSpace, RecipeError, Refused, TimedOut, Unavailable
from imageflow.fetch import digests, transfer
from tests.drivers.web import Site, serving

MIB = 1 << 20
DATA = random.Random(7).randbytes(3 * MIB + 12345)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = random.Random(8).randbytes(3 * MIB)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(DATA)) as served:
        yield served


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 0.01)
    return configuration.load(state_dir=str(tmp_path / "state"))


@pytest.fixture
def said() -> list[str]:
    return []


def get(site: Site, config: Config, said: list[str], sha256: str = SHA, control: Control | None = None) -> Path:
    return fetch.fetch(site.url, sha256, config=config, control=control or Control(), log=said.append)


def part(config: Config) -> Path:
    return config.cache_dir / "downloads" / f"{SHA}.part"


def leave_part(config: Config, data: bytes) -> None:
    part(config).parent.mkdir(parents=True, exist_ok=True)
    part(config).write_bytes(data)


def await_part(config: Config) -> None:
    deadline = time.monotonic() + 10
    while (not part(config).exists() or part(config).stat().st_size <= MIB) and time.monotonic() < deadline:
        time.sleep(0.02)


# -- what goes right ---------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(site: Site, config: Config, said: list[str]) -> None:
    seen: list[tuple[float, str]] = []
    path = fetch.fetch(
        site.url, SHA.upper(), config=config, control=Control(), log=said.append, progress=lambda *now: seen.append(now)
    )
    assert path == config.cache_dir / "downloads" / SHA
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o444
    assert seen[-1] == (1.0, "done")
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    os.utime(path, (1, 1))
    assert get(site, config, said) == path
    assert len(site.seen) == 1, "it is in the cache"
    assert path.stat().st_mtime > time.time() - 60, "used now: collected last"
    assert os.listdir(path.parent) == [SHA]


def test_without_content_length(site: Site, config: Config, said: list[str]) -> None:
    site.length = False
    assert get(site, config, said).read_bytes() == DATA


def test_bytes_are_taken_as_they_are(site: Site, config: Config, said: list[str]) -> None:
    """A server that calls a .gz file an encoding must not make us decompress it."""
    site.redirect = lambda path: None if path.startswith("/real") else "/real"
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["Accept-Encoding"] == "identity"


def test_a_file_url_is_checked_where_it_is(config: Config, tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "a disk.iso"
    file.write_bytes(DATA)
    url = f"file://{tmp_path}/a%20disk.iso"
    assert fetch.fetch(url, SHA, config=config, control=Control(), log=said.append) == file
    with pytest.raises(Corrupt, match=SHA):
        fetch.fetch(url, "0" * 64, config=config, control=Control(), log=said.append)
    with pytest.raises(RecipeError, match="can't be read"):
        fetch.fetch(f"{url}.gone", SHA, config=config, control=Control(), log=said.append)


# -- breaking off ------------------------------------------------------------------------------------


def test_a_broken_connection_goes_on_where_it_broke(site: Site, config: Config, said: list[str]) -> None:
    site.cut = [MIB, MIB]
    assert get(site, config, said).read_bytes() == DATA
    assert [request.get("Range") for request in site.seen] == [None, f"bytes={MIB}-", f"bytes={2 * MIB}-"]
    assert [request.get("If-Range") for request in site.seen] == [None, '"one"', '"one"']


def test_a_broken_connection_of_unknown_length(site: Site, config: Config, said: list[str]) -> None:
    site.length, site.cut = False, [MIB]
    with pytest.raises(Corrupt):
        get(site, config, said)  # it looked whole, and nobody can tell
    assert get(site, config, said).read_bytes() == DATA


def test_a_server_without_ranges_begins_again(site: Site, config: Config, said: list[str]) -> None:
    site.ranges, site.cut = False, [MIB]
    assert get(site, config, said).read_bytes() == DATA
    assert "begins again" in " ".join(said)


def test_a_server_that_always_breaks_off_is_given_up(site: Site, config: Config, said: list[str]) -> None:
    site.ranges, site.cut = False, [MIB] * 50
    with pytest.raises(Unavailable, match=r"can't be read|only in part"):
        get(site, config, said)
    assert len(site.seen) < 20
    assert part(config).stat().st_size == MIB, "what came is kept"
    site.ranges, site.cut = True, []
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["Range"] == f"bytes={MIB}-"


def test_a_file_that_changed_meanwhile(site: Site, config: Config, said: list[str]) -> None:
    """Another file under the same URL: its parts never get mixed."""
    leave_part(config, OTHER[:MIB])
    part(config).with_suffix(".from").write_text('{"url": "x", "validator": "\\"zero\\""}')
    assert get(site, config, said).read_bytes() == DATA, "without a word from the server, the digest says it"
    assert "do not fit together" in " ".join(said)


def test_a_changed_etag_begins_again(site: Site, config: Config, said: list[str]) -> None:
    site.cut = [MIB, 0, 0, 0, 0, 0, 0, 0]
    site.data = OTHER
    with pytest.raises(Unavailable):
        get(site, config, said)
    assert part(config).stat().st_size == MIB
    site.data, site.etag, site.cut = DATA, '"two"', []
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["If-Range"] == '"one"'
    assert "do not fit" not in " ".join(said)


@pytest.mark.parametrize("size", [len(DATA), len(DATA) + 10])
def test_a_part_that_is_not_shorter(site: Site, config: Config, said: list[str], size: int) -> None:
    leave_part(config, (DATA + bytes(10))[:size])
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) == (0 if size == len(DATA) else 2), "a whole one needs no server; 416 begins again"


def test_another_range_than_asked_for(site: Site, config: Config, said: list[str]) -> None:
    leave_part(config, DATA[:MIB])
    site.wrong_range = True
    assert get(site, config, said).read_bytes() == DATA
    assert "Range" not in site.seen[-1]


def test_wrong_bytes(site: Site, config: Config, said: list[str]) -> None:
    site.data = OTHER
    with pytest.raises(Corrupt) as caught:
        get(site, config, said)
    assert SHA in caught.value.message
    assert hashlib.sha256(OTHER).hexdigest() in caught.value.message
    assert os.listdir(part(config).parent) == []
    assert len(site.seen) == 1


# -- what a server says ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_no_is_no(site: Site, config: Config, said: list[str], code: int) -> None:
    site.codes = [code] * 9
    with pytest.raises(Refused, match=str(code)) as caught:
        get(site, config, said)
    assert caught.value.hint
    assert len(site.seen) == 1


def test_later_is_later(site: Site, config: Config, said: list[str]) -> None:
    site.codes = [503, 429, 500]
    site.headers = {"Retry-After": "0"}
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) == 4


def test_never_is_given_up(site: Site, config: Config, said: list[str]) -> None:
    site.codes = [503] * 99
    with pytest.raises(Unavailable, match="503"):
        get(site, config, said)
    assert len(site.seen) == 6


def test_retry_after_is_obeyed(site: Site, config: Config, said: list[str]) -> None:
    site.codes, site.headers = [503], {"Retry-After": "1"}
    began = time.monotonic()
    get(site, config, said)
    assert time.monotonic() - began >= 1.0


def test_a_redirect_loop(site: Site, config: Config, said: list[str]) -> None:
    site.redirect = lambda path: "/disk"
    with pytest.raises(Refused, match="circles"):
        get(site, config, said)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/disk", "http://[::1/x"])
def test_a_redirect_to_what_is_no_web_server(site: Site, config: Config, said: list[str], to: str) -> None:
    site.redirect = lambda path: to
    with pytest.raises(Refused, match="usable URL"):
        get(site, config, said)


def test_nobody_there(config: Config, said: list[str]) -> None:
    with serving(Site(DATA)) as gone:
        pass
    with pytest.raises(Unavailable, match="refused"):
        get(gone, config, said)
    with pytest.raises(Unavailable, match="can't be read"):
        fetch.fetch("http://nowhere.invalid/x", SHA, config=config, control=Control(), log=said.append)


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "http://", "//x/y", "disk.iso", "http://[::1/x", "file://elsewhere/x", ""]
)
def test_what_is_no_url(url: str, config: Config, said: list[str]) -> None:
    with pytest.raises(Refused):
        fetch.fetch(url, SHA, config=config, control=Control(), log=said.append)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 63, "g" * 64])
def test_what_is_no_digest(sha256: str, site: Site, config: Config, said: list[str]) -> None:
    with pytest.raises(Refused, match="64 hexadecimal"):
        get(site, config, said, sha256)
    assert not site.seen


# -- credentials and proxies -------------------------------------------------------------------------


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
            "http://me:s3cret@127.0.0.1:1/?t0psecret", "1" * 64, config=config, control=Control(), log=said.append
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


# -- several at once, and ends -----------------------------------------------------------------------


def test_of_two_one_downloads_and_the_other_waits(site: Site, config: Config) -> None:
    site.hold = threading.Event()
    logs: list[list[str]] = [[], [], []]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(get, site, config, log) for log in logs]
        assert site.half_sent.wait(10)
        deadline = time.monotonic() + 10
        while sum("waiting" in " ".join(log) for log in logs) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        site.hold.set()
        paths = {run.result() for run in runs}
    assert len(site.seen) == 1
    assert [path.read_bytes() == DATA for path in paths] == [True]
    assert sum("waiting" in " ".join(log) for log in logs) == 2


def test_cancelled_while_the_server_is_silent(site: Site, config: Config, said: list[str]) -> None:
    site.hold = threading.Event()
    control = Control()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(get, site, config, said, SHA, control)
        assert site.half_sent.wait(10)
        await_part(config)
        began = time.monotonic()
        control.stop(Cancelled())
        with pytest.raises(Cancelled):
            run.result(5)
    assert time.monotonic() - began < 2
    assert part(config).stat().st_size > MIB
    site.hold = None
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["Range"].startswith("bytes=")


def test_a_step_that_takes_too_long(site: Site, config: Config, said: list[str]) -> None:
    site.hold = threading.Event()
    control = Control()
    control.begin_step("fetch-media", 0.5)
    with pytest.raises(TimedOut):
        get(site, config, said, SHA, control)


def test_a_silent_server(site: Site, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_SILENCE", 0.2)
    monkeypatch.setattr(transfer, "_ATTEMPTS", 2)
    site.hold, site.ranges = threading.Event(), False
    with pytest.raises(Unavailable, match="no answer in time"):
        get(site, config, said)


def test_a_server_that_falls_silent_now_and_then(
    site: Site, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_SILENCE", 0.2)
    site.hold = threading.Event()
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) > 2


PROGRAM = """
import sys
from imageflow import config, fetch
from imageflow.control import Control
print(fetch.fetch(sys.argv[2], sys.argv[3], config=config.load(state_dir=sys.argv[1]), control=Control(), log=print))
"""


def test_killed_in_the_middle_the_next_one_goes_on(site: Site, config: Config, said: list[str]) -> None:
    site.hold = threading.Event()
    argv = [sys.executable, "-c", PROGRAM, str(config.state_dir), site.url, SHA]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert site.half_sent.wait(20)
        await_part(config)
        child.send_signal(signal.SIGKILL)
    left = part(config).stat().st_size
    assert MIB <= left < len(DATA)
    site.hold.set()
    site.hold = None
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["Range"] == f"bytes={left}-"


@pytest.mark.serial
@pytest.mark.parametrize("length", [True, False])
def test_a_full_disk(site: Site, config: Config, said: list[str], length: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    site.length = length
    folder = part(config).parent
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, "size=2m", "imageflow-test", folder], check=True)
    try:
        with pytest.raises(NoSpace, match="no space left") as caught:
            get(site, config, said)
        if length:
            assert "GiB are free" in caught.value.message, "found out before a byte was written"
            assert part(config).stat().st_size == 0
        else:
            assert part(config).stat().st_size > MIB
        subprocess.run([*mount, "remount,size=8m", folder], check=True)
        assert get(site, config, said).read_bytes() == DATA
    finally:
        subprocess.run(["umount", folder], check=True)


# -- collection --------------------------------------------------------------------------------------


def test_collection_by_age_and_size(config: Config) -> None:
    folder = part(config).parent
    folder.mkdir(parents=True)
    now = time.time()
    for number, age in enumerate((10, 20, 30, 4000)):
        file = folder / f"{number:064x}"
        file.write_bytes(bytes([1]) * MIB)
        os.utime(file, (now - age, now - age))
    for name in ("a" * 64, "b" * 64):
        for suffix in (".part", ".from"):
            (folder / f"{name}{suffix}").write_bytes(b"{}")
            os.utime(folder / f"{name}{suffix}", (now - 4000, now - 4000))
    holder = os.open(folder / f"{'b' * 64}.part", os.O_RDWR)
    import fcntl

    fcntl.flock(holder, fcntl.LOCK_EX)
    removed = fetch.collect(config, 3600, 2.5 * MIB)
    os.close(holder)
    assert sorted(path.name for path in removed) == [f"{2:064x}", f"{3:064x}", f"{'a' * 64}.part"]
    names = sorted(os.listdir(folder))
    assert names == [f"{0:064x}", f"{1:064x}", f"{'b' * 64}.from", f"{'b' * 64}.part"]
    assert fetch.collect(config, 0, 0, keep=[f"{1:064x}"])
    assert f"{1:064x}" in os.listdir(folder)


def test_collection_of_nothing(config: Config) -> None:
    assert fetch.collect(config, 0, 0) == []
    assert not config.state_dir.exists()


# -- local files -------------------------------------------------------------------------------------


def test_a_local_file_is_read_once(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 0.1)
    file = tmp_path / "x.iso"
    file.write_bytes(DATA)
    reads: list[float] = []

    def digest() -> str:
        reads.clear()
        return fetch.local(file, config=config, control=Control(), progress=reads.append)

    assert digest() == SHA
    assert digest() == SHA
    assert reads, "written to just now: a clock tick may hide a change"
    time.sleep(0.15)  # until the file system's clock shows a change
    assert digest() == SHA
    assert reads
    assert digest() == SHA
    assert not reads
    status = file.stat()
    with file.open("r+b") as changed:  # same size, same mtime, same inode
        changed.write(b"!")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest() == hashlib.sha256(b"!" + DATA[1:]).hexdigest()
    file.write_bytes(DATA)
    assert fetch.local(file, SHA, config=config, control=Control()) == SHA
    with pytest.raises(Corrupt) as caught:
        fetch.local(file, "0" * 64, config=config, control=Control())
    assert SHA in caught.value.message


@pytest.mark.parametrize("kind", ["gone", "folder", "fifo"])
def test_what_is_no_file(kind: str, config: Config, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(RecipeError):
        fetch.local(path, config=config, control=Control())


def test_a_memory_that_is_damaged_or_can_not_be_written(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 0.1)
    file = tmp_path / "x.iso"
    file.write_bytes(DATA)
    time.sleep(0.15)  # until the file system's clock shows a change
    fetch.local(file, config=config, control=Control())
    [memory] = (config.cache_dir / "digests").iterdir()
    for damage in (b"", b"[]", b"\xff\xfe", b'{"file": 3}'):
        memory.write_bytes(damage)
        assert fetch.local(file, config=config, control=Control()) == SHA
    blocked = configuration.load(state_dir=str(file))  # a file where the folder should be
    assert fetch.local(file, config=blocked, control=Control()) == SHA
