"""Reading a log that is not there yet, grows, and is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.cli import follow
from imageflow.cli.follow import Growing, Tail, last_lines_offset


def test_a_file_is_read_as_it_comes_grows_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    growing = Growing(path)
    assert growing.read() == b""
    path.write_bytes(b"one\n")
    assert growing.read() == b"one\n"
    assert growing.read() == b""
    with path.open("ab") as file:
        file.write(b"tw")
    assert growing.read() == b"tw"
    (tmp_path / "new").write_bytes(b"another\n")
    (tmp_path / "new").rename(path)
    assert growing.read() == b"another\n"
    path.write_bytes(b"cut\n")
    assert growing.read() == b"cut\n"
    path.unlink()
    assert growing.read() == b""
    growing.close()


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("content", "lines", "rest"),
    [
        (b"", 3, b""),
        (b"a\n", 1, b"a\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"\n\n\n", 1, b"\n"),
        (b"a\n\nlong line\n", 2, b"\nlong line\n"),
    ],
)
def test_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, content: bytes, lines: int, rest: bytes
) -> None:
    monkeypatch.setattr(follow, "CHUNK", chunk)
    path = tmp_path / "log"
    path.write_bytes(content)
    assert content[last_lines_offset(path, lines) :] == rest


def test_the_last_lines_of_what_is_not_there(tmp_path: Path) -> None:
    assert last_lines_offset(tmp_path / "log", 3) == 0


def test_a_tail_keeps_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path, 2)
    assert tail.lines() == []
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.lines() == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"ee\n\xff\n")
    assert tail.lines() == ["three", "�"]
    tail.close()
