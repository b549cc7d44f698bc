"""Files of this machine are not downloaded: checked where they are, and read once as long as they stay the same."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow import fetch
from imageflow.config import Config
from imageflow.errors import Corrupt, RecipeError
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, SHA


def test_a_file_url_is_checked_where_it_is(config: Config, tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "a disk.iso"
    file.write_bytes(DATA)
    url = f"file://{tmp_path}/a%20disk.iso"
    assert fetch.fetch(url, SHA, config=config, control=Control(), log=said.append) == file
    with pytest.raises(Corrupt, match=SHA):
        fetch.fetch(url, "0" * 64, config=config, control=Control(), log=said.append)
    with pytest.raises(RecipeError, match="can't be read"):
        fetch.fetch(f"{url}.gone", SHA, config=config, control=Control(), log=said.append)


def test_a_local_file_is_read_once(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "x.iso"
    file.write_bytes(DATA)
    reads: list[float] = []

    def digest() -> str:
        reads.clear()
        return fetch.local(file, config=config, control=Control(), progress=reads.append)

    assert digest() == SHA
    assert digest() == SHA
    assert reads, "written to just now: a clock tick may hide a change"
    time.sleep(2.1)  # until the coarsest clock of a file system shows a change
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


def test_a_memory_that_is_damaged_or_can_not_be_written(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "x.iso"
    file.write_bytes(DATA)
    time.sleep(2.1)  # until the coarsest clock of a file system shows a change
    fetch.local(file, config=config, control=Control())
    [memory] = (config.cache_dir / "digests").iterdir()
    for damage in (b"", b"[]", b"\xff\xfe", b'{"file": 3}'):
        memory.write_bytes(damage)
        assert fetch.local(file, config=config, control=Control()) == SHA
    blocked = configuration.load(state_dir=str(file))  # a file where the folder should be
    assert fetch.local(file, config=blocked, control=Control()) == SHA
