"""Text as editors store it: one way to read all of it."""

from __future__ import annotations

import pytest

from imageflow.errors import NotText
from imageflow.host.text import is_text, read

PLAIN = "#!/bin/sh\necho 'grüße'\n"
WINDOWS = PLAIN.replace("\n", "\r\n")
STORED = {
    "plain": (PLAIN.encode(), ()),
    "BOM": (PLAIN.encode("utf-8-sig"), ()),
    "UTF-16 little": (b"\xff\xfe" + PLAIN.encode("utf-16-le"), ("is UTF-16, and used as UTF-8",)),
    "UTF-16 big": (b"\xfe\xff" + PLAIN.encode("utf-16-be"), ("is UTF-16, and used as UTF-8",)),
    "UTF-32": (PLAIN.encode("utf-32"), ("is UTF-32, and used as UTF-8",)),
    "Windows": (WINDOWS.encode(), ("has Windows line ends, and is used with plain ones",)),
    "Windows with BOM": (WINDOWS.encode("utf-8-sig"), ("has Windows line ends, and is used with plain ones",)),
    "Windows, UTF-16": (
        WINDOWS.encode("utf-16"),
        ("is UTF-16, and used as UTF-8", "has Windows line ends, and is used with plain ones"),
    ),
    "old Mac": (PLAIN.replace("\n", "\r").encode(), ("has the line ends of old Macs, and is used with plain ones",)),
}


@pytest.mark.parametrize("name", STORED)
def test_one_text(name: str) -> None:
    data, notes = STORED[name]
    assert read(data).text == PLAIN
    assert read(data).notes == notes
    assert is_text(data)


def test_a_carriage_return_within_a_line_stays() -> None:
    assert read(b"printf 'a\rb'\n").text == "printf 'a\rb'\n"


def test_a_script_keeps_the_line_ends_that_it_means() -> None:
    mixed = b"#!/bin/sh\ncat <<E\nGET / HTTP/1.1\r\n\r\nE\n"
    assert read(mixed, script=True).text.encode() == mixed
    assert read(mixed, script=True).notes == ("has Windows line ends in some of its lines: they stay",)
    assert b"\r" not in read(mixed).text.encode()
    assert read(WINDOWS.encode(), script=True).text == PLAIN


def test_another_encoding_is_used_where_there_is_no_mark() -> None:
    assert read("grüße".encode("latin-1"), "latin-1").text == "grüße"
    assert read("grüße".encode("utf-8-sig"), "latin-1").text == "grüße"


@pytest.mark.parametrize(
    ("data", "line"), [(b"a\nb\xff\n", 2), (b"\xef\xbb\xbfa\n\xe9", 2), (b"\xff\xfea", 0)], ids=["byte", "BOM", "half"]
)
def test_no_text(data: bytes, line: int) -> None:
    with pytest.raises(NotText) as told:
        read(data)
    assert told.value.line == line and told.value.hint == "save it as UTF-8"
    assert not is_text(data)


@pytest.mark.parametrize("data", [b"\x7fELF\0\1", b"\xef\xbb\xbfa\0", b"\x1f\x8b\x08"])
def test_a_program_is_none(data: bytes) -> None:
    assert not is_text(data)
