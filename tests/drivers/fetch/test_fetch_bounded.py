"""What is fetched has a size that it may not exceed, whatever the server says of it, and leaves some of the disk free."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from imageflow import fetch
from imageflow.config import Config
from imageflow.errors import NoSpace, TooLarge
from imageflow.fetch import git
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, MIB, get, part
from tests.drivers.fetch.web import Site
from tests.small.forge import Forge

GIB = 1 << 30


def bounded(config: Config, most: int, min_free: float = 0.0) -> Config:
    """At most so many bytes."""
    return replace(
        config,
        downloads=replace(config.downloads, max_size=most / GIB, min_free=min_free),
        git=replace(config.git, max_size=most / GIB),
    )


def test_a_file_that_says_how_large_it_is(site: Site, config: Config, said: list[str]) -> None:
    with pytest.raises(TooLarge, match="larger than") as caught:
        get(site, bounded(config, MIB), said)
    assert "[downloads] max_size" in caught.value.hint
    assert not part(config).exists()
    assert get(site, bounded(config, len(DATA)), said).read_bytes() == DATA


def test_a_file_without_a_length(site: Site, config: Config, said: list[str]) -> None:
    site.length = False
    with pytest.raises(TooLarge, match="still coming"):
        get(site, bounded(config, MIB), said)
    assert not part(config).exists(), "what nobody can use is not kept"
    assert get(site, bounded(config, len(DATA)), said).read_bytes() == DATA


@pytest.mark.parametrize("length", [True, False])
def test_some_of_the_disk_stays_free(
    site: Site, config: Config, said: list[str], length: bool, small_disk: Path
) -> None:
    """A twentieth of a small disk; all that is asked for of a large one."""
    site.length = length
    with pytest.raises(NoSpace, match="no space left") as caught:
        get(site, bounded(config, GIB, min_free=1.0), said)
    assert "[downloads] min_free" in caught.value.hint
    assert get(site, bounded(config, GIB), said).read_bytes() == DATA


def test_an_image_of_a_cloud(config: Config, said: list[str], tmp_path: Path) -> None:
    """Whoever writes it."""
    digest = hashlib.sha256(DATA).hexdigest()

    def download(file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        for at in range(0, len(DATA), 1 << 16):
            file.write(DATA[at : at + (1 << 16)])

    def by(config: Config) -> Path:
        return fetch.fetch_by(
            download,
            digest,
            name="an image",
            otherwise=tmp_path / "otherwise",
            config=config,
            control=Control(),
            log=said.append,
        )

    with pytest.raises(TooLarge, match="an image is larger"):
        by(bounded(config, MIB))
    assert list((config.cache_dir / "downloads").iterdir()) == []
    assert by(bounded(config, GIB)).read_bytes() == DATA


def test_a_repository_that_unpacks_to_more(config: Config, tmp_path: Path) -> None:
    """A pack of some KiB, whose files are many MiB."""
    forge = Forge(tmp_path / "forge")
    for number in range(64):
        forge.write(f"same-{number}", "x" * MIB)
    commit = forge.push()
    ref = "refs/heads/main"
    with pytest.raises(TooLarge, match="larger than") as caught:
        git.check_out(bounded(config, 16 * MIB), forge.url, ref, commit, control=Control())
    assert "[git] max_size" in caught.value.hint
    assert list(config.checkouts_dir.glob("*/*")) == []
    found = git.check_out(bounded(config, GIB), forge.url, ref, commit, control=Control())
    assert len(list(found.iterdir())) == 64


def test_many_tiny_files_are_large_together(config: Config, tmp_path: Path) -> None:
    forge = Forge(tmp_path / "forge")
    for number in range(2000):
        forge.write(f"some/{number}", "x")
    with pytest.raises(TooLarge):
        git.check_out(bounded(config, MIB), forge.url, "refs/heads/main", forge.push(), control=Control())
