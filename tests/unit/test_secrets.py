"""Secrets: found in the environment, in a file, or where a recipe has them as plain text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageflow import config, recipe
from imageflow.config import Config
from imageflow.errors import SecretMissing
from imageflow.recipe import secret_values


@pytest.fixture
def conf(tmp_path: Path) -> Config:
    """A configuration with an own folder of secrets."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    file = tmp_path / "imageflow.conf"
    file.write_text(f"[secrets]\ndirectory = {folder}\n")
    return config.load([str(file)], state_dir=str(tmp_path / "state"))


def test_the_environment_wins_over_the_file(conf: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (conf.secrets_dir / "db-pass").write_text("from file\n")
    assert secret_values.resolve("db-pass", conf) == "from file"
    monkeypatch.setenv("IMAGEFLOW_SECRET_DB_PASS", "from environment")
    assert secret_values.resolve("db-pass", conf) == "from environment"
    monkeypatch.setenv("IMAGEFLOW_SECRET_db_pass", "exact")
    assert secret_values.resolve("db-pass", conf) == "exact"


def test_only_one_line_feed_is_taken_off(conf: Config) -> None:
    for written, read in (("a\r\n", "a"), ("a\n\n", "a\n"), (" a b ", " a b "), ("", ""), ("a\nb\n", "a\nb")):
        (conf.secrets_dir / "S").write_bytes(written.encode())
        assert secret_values.resolve("S", conf) == read


def test_a_missing_one_says_where_to_put_it(conf: Config) -> None:
    with pytest.raises(SecretMissing) as caught:
        secret_values.resolve("db-pass", conf)
    assert caught.value.exit_code == 2
    assert "'db-pass'" in str(caught.value)
    assert "IMAGEFLOW_SECRET_db_pass" in caught.value.hint
    assert str(conf.secrets_dir / "db-pass") in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../imageflow.conf", "/etc/passwd", "", "a/b", "..", ".hidden", "a\0b", "a b", "recipe:x"]
)
def test_a_name_never_leads_out_of_the_folder(name: str, conf: Config) -> None:
    with pytest.raises(SecretMissing):
        secret_values.resolve(name, conf)


def test_what_is_no_file_is_refused_without_waiting(conf: Config) -> None:
    os.mkfifo(conf.secrets_dir / "FIFO")
    (conf.secrets_dir / "FOLDER").mkdir()
    (conf.secrets_dir / "BINARY").write_bytes(b"\xff")
    (conf.secrets_dir / "HUGE").write_bytes(b"x" * ((1 << 20) + 1))
    for name in ("FIFO", "FOLDER", "BINARY", "HUGE"):
        with pytest.raises(SecretMissing, match=name):
            secret_values.resolve(name, conf)


def write(path: Path, password: str) -> None:
    path.write_text(
        "images:\n- name: web\n  method: dib\n"
        f"  dib: {{elements: [vm], environment: {{DIB_DEV_USER_PASSWORD: '{password}'}}}}\n"
    )


@pytest.mark.parametrize("folder", ["plain", "with space", "hash#tag", "recipe:x"])
def test_a_plain_secret_is_read_again_from_the_recipe(folder: str, conf: Config, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "recipe.yaml"
    write(file, "hunter2")
    (image,) = recipe.load(file).images
    name = image.dib["environment"]["DIB_DEV_USER_PASSWORD"]["secret"]
    assert secret_values.resolve(name, conf) == "hunter2"
    write(file, "hunter3")
    assert secret_values.resolve(name, conf) == "hunter3"


def test_a_plain_secret_that_is_gone(conf: Config, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    write(file, "hunter2")
    (image,) = recipe.load(file).images
    name = image.dib["environment"]["DIB_DEV_USER_PASSWORD"]["secret"]
    file.write_text("images: [{name: web, method: dib, dib: {elements: [vm]}}]\n")
    with pytest.raises(SecretMissing, match="no longer has DIB_DEV_USER_PASSWORD"):
        secret_values.resolve(name, conf)
    file.write_text("- - [")
    with pytest.raises(SecretMissing, match="can't be read any more"):
        secret_values.resolve(name, conf)
    file.unlink()
    with pytest.raises(SecretMissing, match="can't be read any more"):
        secret_values.resolve(name, conf)
