"""A server's console, of which nova shows the last part only: what is new since the last look."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.compute.nova.console import ConsoleFile, merge

WINDOW = 100 * 1024  # bytes that Nova shows of a console


LOGIN = b"\nDebian GNU/Linux 12 web ttyS0\n\nThe programs included are free software; \nweb login: "


@pytest.mark.parametrize(
    ("known", "seen", "new"),
    [
        (b"", b"", b""),
        (b"", b"SeaBIOS\n", b"SeaBIOS\n"),
        (b"SeaBIOS\n", b"", b""),
        (b"SeaBIOS\n", b"SeaBIOS\n", b""),
        (b"SeaBIOS\n", b"SeaBIOS\nLinux\n", b"Linux\n"),
        (b"\n", b"\nLinux\nudev\n", b"Linux\nudev\n"),  # a short beginning is no place to go on from
        (b"[", b"[    0.0] one [1]\n", b"    0.0] one [1]\n"),
        (b"one\ntwo\n", b"two\nthree\n", b"three\n"),  # one has been dropped
        (b"one\ntwo\n", b"four\nfive\n", b"four\nfive\n"),  # and so has three
        (b"one\ntwo\nthree\n", b"one\ntwo\n", b""),  # an older look that came late
        (b"one\ntwo\n", b"one\nother\n", b"one\nother\n"),  # another boot
    ],
)
def test_what_is_new_on_a_console(known: bytes, seen: bytes, new: bytes) -> None:
    assert merge(known, seen) == new


def test_a_boot_that_ends_with_the_same_words_is_seen_whole() -> None:
    first, second = b"[ 0.1] one" + LOGIN, b"[ 0.2] two" + LOGIN
    assert merge(first, second) == second


def test_a_console_over_several_boots(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "deep" / "console.log")
    assert console.read() == b""
    said = b""
    for number in range(4):
        boot = b"".join(b"[%d.%03d] line of boot\n" % (number, line) for line in range(40)) + LOGIN
        for end in range(1, len(boot), 37):
            console.add(boot[:end])
        console.add(boot)
        console.add(b"")  # between two boots there is nothing
        said += boot
    assert console.read() == said
    assert console.read(len(said) - 7) == said[-7:]
    assert console.read(len(said) + 7) == b""


def test_lines_that_repeat_are_counted(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    boot = b"booting\n" + b"waiting for the network\n" * 1000 + b"up\n" + b"." * 5000 + b"\ndone\n"
    for end in range(1, len(boot), 331):
        console.add(boot[:end])
    console.add(boot)
    assert console.read() == boot


def test_only_the_last_part_of_a_console_is_shown(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    said = b"".join(b"[%8d] a line of a long console\n" % line for line in range(9000))
    assert len(said) > 3 * WINDOW
    for end in range(1, len(said), 50_021):
        console.add(said[max(0, end - WINDOW) : end])
    console.add(said[-WINDOW:])
    assert console.read() == said


@pytest.mark.parametrize("step", [WINDOW - 1, WINDOW])
def test_nothing_is_lost_or_doubled_where_what_is_shown_just_touches_what_is_known(tmp_path: Path, step: int) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(step * 2 // 16 + 1))[: 2 * step]
    console.add(said[:step])
    console.add(said[2 * step - WINDOW : 2 * step])
    assert console.read() == said


def test_what_was_dropped_before_it_was_seen_is_a_gap_and_no_more(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(20_000))
    console.add(said[:1600])
    console.add(said[-WINDOW:])
    console.add(said[-WINDOW:] + b"end\n")
    assert console.read() == said[:1600] + said[-WINDOW:] + b"end\n"


def test_characters_of_any_length(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    text = "● Größe 装 🐧 \ufffd\n" * 50
    for end in range(0, len(text) + 1, 3):
        console.add(text[:end].encode())
    console.add(text.encode())
    assert console.read() == text.encode()


def test_a_look_that_comes_late_adds_nothing(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log")
    said = b"".join(b"[%8d] line\n" % line for line in range(9000))
    console.add(said[:WINDOW])
    console.add(said[5000 : 5000 + WINDOW])
    console.add(said[2000 : 2000 + WINDOW])
    assert console.read() == said[: 5000 + WINDOW]


TEXT = st.text(alphabet="ab\n.", max_size=300).map(str.encode)


@given(TEXT, st.data())
def test_a_console_that_only_grows_is_known_in_the_end(said: bytes, data: st.DataObject) -> None:
    known = b""
    for end in sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8))):
        known += merge(known, said[:end])
    assert known + merge(known, said) == said


def test_a_console_has_an_end(tmp_path: Path) -> None:
    console = ConsoleFile(tmp_path / "console.log", most=10_000)
    said = b"".join(b"line %d\n" % number for number in range(5000))
    for end in range(1000, len(said), 1000):
        console.add(said[max(0, end - 3000) : end])
    assert console.read() == said[:10_000]
    ConsoleFile(tmp_path / "other.log", most=100).add(said)
    assert len((tmp_path / "other.log").read_bytes()) == 100
