"""What is no recipe, and sources that are no files: one readable line for each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageflow import recipe
from imageflow.errors import RecipeError
from tests.unit.test_recipe_malformed import GOOD, message


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device", "missing", "below a file", "NUL", "long"])
def test_what_is_no_recipe_file(kind: str, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "it"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(str(path))
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "below a file":
        path.write_text("x")
        path = path / "below"
    elif kind == "NUL":
        path = Path("a\0b")
    elif kind == "long":
        path = tmp_path / ("x" * 5000)
    with listener, pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_terminal_is_not_read() -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(RecipeError, match="not a regular file"):
            recipe.load(Path(os.ttyname(slave)))
    finally:
        os.close(master)
        os.close(slave)


def test_a_link_out_of_the_folder_is_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in" / "link").symlink_to("../secret")
    said = message(tmp_path / "in", GOOD + "    configure:\n      - files: [{source: link, path: /x}]\n")
    assert "link is outside the recipe's folder" in said


@pytest.mark.parametrize("kind", ["directory", "fifo", "loop"])
def test_sources_that_are_no_files(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if kind == "directory":
        source.mkdir()
    elif kind == "fifo":
        os.mkfifo(source)
    else:
        source.symlink_to("source")
    said = message(tmp_path, GOOD + "    configure:\n      - files: [{source: source, path: /x}]\n")
    assert "configure[0].files[0].source: source is" in said or "there is no file source" in said
