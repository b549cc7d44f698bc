"""Downloads that end before their time: cancelled, too slow, killed, without room on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imageflow.config import Config
from imageflow.errors import Cancelled, NoSpace, TimedOut, Unavailable
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, MIB, SHA, await_part, get, part
from tests.drivers.fetch.web import Site


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


@pytest.mark.usefixtures("hasty_network")
def test_a_silent_server(site: Site, config: Config, said: list[str]) -> None:
    site.hold, site.ranges = threading.Event(), False
    with pytest.raises(Unavailable, match="no answer in time"):
        get(site, config, said)


@pytest.mark.usefixtures("hasty_network")
def test_a_server_that_falls_silent_now_and_then(site: Site, config: Config, said: list[str]) -> None:
    site.hold = threading.Event()
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) > 2


PROGRAM = """
import sys
from imageflow import config, fetch
from imageflow.host.control import Control
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
