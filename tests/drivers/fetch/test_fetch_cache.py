"""Downloads are kept as they are: made once, by one of several that want the file, until the cache is collected."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from imageflow import fetch
from imageflow.config import Config
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, MIB, SHA, get, part
from tests.drivers.fetch.web import Site


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
