"""What others wrote acts on no terminal, hides nothing and forges no line, wherever people read it."""

from __future__ import annotations

import ast
import io
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imageflow
from imageflow.cli import present
from imageflow.cli.console import Cleaner
from imageflow.cli.follow import Shown
from imageflow.cli.lines import LineView
from imageflow.cli.view import BuildView
from imageflow.host.buildlog import BuildLog
from imageflow.host.visible import VisibleFormatter, visible
from imageflow.model import Build, BuildState

HOSTILE = "\x9b2Ja\x1b]0;x\x07\r\u202egpj\u2066\u200b\ufeff\u2028\x7f\x00\U000e0041\ud800"
ESCAPED = r"\x9b2Ja\x1b]0;x\x07\r\u202egpj\u2066\u200b\ufeff\u2028\x7f\x00\U000e0041\ud800"


def acts(text: str) -> list[str]:
    """Characters of a text that a terminal acts on, or that nobody sees; without tab and line feed."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c not in "\t\n"]


def test_what_is_escaped() -> None:
    assert visible(HOSTILE) == ESCAPED
    assert visible("a\nb\tc") == "a\\nb\tc"
    assert visible("a\nb\tc", lines=True) == "a\nb\tc"
    assert visible("naïve ✔ 日本 🎉 العربية …") == "naïve ✔ 日本 🎉 العربية …"


@given(st.text(st.characters()))
def test_nothing_else_is_left_or_changed(text: str) -> None:
    shown = visible(text)
    assert not [
        c for c in acts(shown) if not 0x600 <= ord(c) <= 0x8FF and ord(c) < 0x10000
    ]  # Arabic signs have a width
    if not acts(text) and "\n" not in text and text.isprintable():
        assert shown == text


def test_no_control_character_is_left() -> None:
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp", "Cs") and chr(code) not in "\t":
            assert visible(chr(code)) != chr(code), hex(code)
        if unicodedata.bidirectional(chr(code)) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            assert visible(chr(code)) != chr(code), hex(code)


def test_cells_of_tables() -> None:
    assert present.seen(HOSTILE).startswith(r"\x9b")
    assert present.seen("a\nb") == "a\\nb"
    assert present.seen(3) == 3
    clipped = present.seen(present.Clipped("a\x1bb"))
    assert (clipped.human_readable(), clipped.machine_readable()) == ("a\\x1bb", "a\\x1bb")
    lines = present.seen(present.LinesColumn(["a\nb", "c"], ["a\nb", "c"]))
    assert lines.human_readable() == "a\\nb\nc"
    assert present.seen(present.Pairs({"a\nb": "c\x9b"})).human_readable() == "a\\nb: c\\x9b"


def test_logs(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "log")
    log(f"one {HOSTILE}")
    text = (tmp_path / "log").read_text()
    assert not acts(text)
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(VisibleFormatter("%(levelname)s %(message)s"))
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "subject %s", ("a\nERROR forged\x9b",), None))
    assert out.getvalue() == "INFO subject a\\nERROR forged\\x9b\n"


def test_a_log_and_a_console_that_were_written_otherwise() -> None:
    out = io.BytesIO()
    shown = Shown(out)
    for byte in "a\x9b\u202eb\n✔".encode():
        shown.write(bytes([byte]))
    assert out.getvalue().decode() == "a\\x9b\\u202eb\n✔"
    cleaner = Cleaner()
    assert not acts(cleaner.feed("x\u202ey\u200b\n".encode()) + cleaner.feed(b""))


def test_lines_of_wait() -> None:
    build = Build(
        id="b" * 12, image="web", method="boot", state=BuildState.PAUSED, reason="", key="", flow="", created=0.0,
        recipe={}, folder="", pins={}, error="no\nweb bbbbbbbbbbbb: succeeded\x9b",
    )  # fmt: skip
    out = io.StringIO()
    LineView(out).show([BuildView(build, (), None, ())])
    assert out.getvalue() == "web bbbbbbbbbbbb: paused: no\\nweb bbbbbbbbbbbb: succeeded\\x9b\n"


# Functions of the command line that write something else than `visible` makes: our own words, or JSON.
OWN = {
    ("app.py", "print_overview"),  # our help
    ("console.py", "copy_console"),  # a line feed
    ("console.py", "_write"),  # what the Cleaner made, or --raw
    ("images.py", "__call__"), ("images.py", "__exit__"),  # a percentage
    ("machines.py", "take_action"),  # a picture, and a path through `visible`
    ("recipes.py", "take_action"),  # the schema
    ("registry.py", "take_action"),  # JSON, and a drawing through `visible`
    ("wait.py", "ask"),  # a line feed, and a question through `visible`
    ("follow.py", "copy_log"), ("follow.py", "_follow"),  # to Shown
}  # fmt: skip


def test_each_writer_of_the_command_line_is_known() -> None:
    found: set[tuple[str, str]] = set()
    for file in sorted(Path(imageflow.__file__).parent.joinpath("cli").glob("*.py")):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute | ast.Name):
                    continue
                name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
                if name in ("write", "writelines", "print") and "visible(" not in ast.unparse(call):
                    found.add((file.name, function.name))
    assert found == OWN


@pytest.mark.parametrize("name", ["message", "hint"])
def test_errors(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from imageflow.cli.app import App

    words = {"message": "m", "hint": "h"} | {name: HOSTILE}
    App().complain(**words)
    assert ESCAPED.replace(r"\ud800", "") in capsys.readouterr().err.replace(r"\ud800", "")
