"""The token that is made for POST /v1/events: once, whole, and for its owner alone."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow.config import Config
from imageflow.errors import ConfigError
from imageflow.events import door


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration.load([os.devnull], str(tmp_path / "state"))


def test_it_is_made_once_by_whoever_is_first(config: Config) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: door.token(config), range(64)))
    assert len(found) == 1
    assert os.listdir(config.state_dir) == ["events-token"]
    assert config.events_token_file.stat().st_mode & 0o777 == 0o600
    assert door.place(config) == str(config.events_token_file)


def test_a_umask_does_not_open_it(config: Config) -> None:
    before = os.umask(0)
    try:
        door.token(config)
    finally:
        os.umask(before)
    assert config.events_token_file.stat().st_mode & 0o777 == 0o600


def test_a_configured_one_needs_no_file(config: Config) -> None:
    config = dataclasses.replace(config, events=dataclasses.replace(config.events, token="sesame"))
    assert (door.token(config), door.place(config)) == ("sesame", "[events] token")
    assert not config.state_dir.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_may_read_is_not_taken(config: Config, mode: int) -> None:
    door.token(config)
    config.events_token_file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        door.token(config)


@pytest.mark.parametrize("text", ["", "\n", "two words", "\x00\x01"])
def test_a_file_without_a_token_is_named(config: Config, text: str) -> None:
    door.token(config)
    config.events_token_file.write_text(text)
    with pytest.raises(ConfigError, match="there is no token in"):
        door.token(config)


def test_a_link_is_not_followed(config: Config, tmp_path: Path) -> None:
    config.state_dir.mkdir()
    (tmp_path / "elsewhere").write_text("planted")
    config.events_token_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="can't be read"):
        door.token(config)


def test_a_folder_that_can_not_be_written_is_named(config: Config) -> None:
    config.state_dir.write_text("in the way")
    with pytest.raises(ConfigError, match="events-token"):
        door.token(config)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_taken(config: Config) -> None:
    door.token(config)
    os.chown(config.events_token_file, 12345, 12345)
    with pytest.raises(ConfigError, match="not a file of this user"):
        door.token(config)
