"""Emulates the screen of a serial console: what a user at a terminal would see."""

from __future__ import annotations

import codecs
import re

ROWS = 25
COLUMNS = 80
_MOST = 999  # no terminal is larger: limits numbers in escape sequences
_TOKEN = re.compile(
    r"\x1b\[(?P<private>[<-?]*)(?P<numbers>[0-9;:]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_k][^\x1b]*\x1b\\)"  # titles and the like
    r"|\x1b(?P<charset>[()*+])(?P<set>.)"
    r"|\x1b[ #%](?:.)"
    r"|\x1b(?P<simple>[0-9=>A-Zc-z~|}])"
    r"|(?P<text>[^\x00-\x1f\x7f]+)"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f])",
    re.S,
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_k][^\x1b]*\x1b?|[()*+ #%])?\Z", re.S)
_LONGEST = 256  # characters of an incomplete escape sequence to wait for
_GRAPHICS = str.maketrans("jklmnqtuvwxa`", "┘┐┌└┼─├┤┴┬│▒◆")


class Screen:
    """A terminal of 80 × 25, with the features that installers use; no input makes it fail."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._reset()
        self.scrolled = 0  # lines scrolled off at the top

    def feed(self, data: bytes) -> None:
        """More output."""
        text = self._rest + self._decode(data)
        self._rest = ""
        if (unfinished := _UNFINISHED.search(text)) and len(unfinished[0]) < _LONGEST:
            text, self._rest = text[: unfinished.start()], unfinished[0]
        for token in _TOKEN.finditer(text):
            if token["text"]:
                self._write(token["text"].translate(_GRAPHICS) if self._drawing[self._shift] else token["text"])
            elif token["control"]:
                self._control(token["control"])
            elif token["final"]:
                self._sequence(token["final"], token["numbers"], token["private"])
            elif token["charset"]:
                self._drawing[token["charset"] == ")"] = token["set"] == "0"
            elif token["simple"]:
                self._escape(token["simple"])

    def rows(self) -> list[str]:
        """Its rows from the top, without trailing blanks."""
        return ["".join(row).rstrip() for row in self._cells]

    def at_cursor(self) -> str:
        """The text left of the cursor in its row."""
        return "".join(self._cells[self._y][: self._x])

    def _reset(self) -> None:
        self._cells = [[" "] * COLUMNS for _ in range(ROWS)]
        self._x = self._y = 0
        self._top, self._bottom = 0, ROWS - 1
        self._saved = (0, 0)
        self._drawing = [False, False]  # G0 and G1 hold the line drawing characters
        self._shift = 0

    def _write(self, text: str) -> None:
        while text:
            if self._x >= COLUMNS:
                self._x = 0
                self._line_feed()
            part, text = text[: COLUMNS - self._x], text[COLUMNS - self._x :]
            self._cells[self._y][self._x : self._x + len(part)] = part
            self._x += len(part)

    def _line_feed(self) -> None:
        if self._y == self._bottom:
            self._shift_rows(self._top, 1)
            self.scrolled += 1
        elif self._y < ROWS - 1:
            self._y += 1

    def _shift_rows(self, first: int, count: int) -> None:
        """Move rows between `first` and the bottom margin up by `count`, or down if it is negative."""
        region = self._cells[first : self._bottom + 1]
        count = max(-len(region), min(count, len(region)))
        blank = [[" "] * COLUMNS for _ in range(abs(count))]
        moved = [*region[count:], *blank] if count >= 0 else [*blank, *region[:count]]
        self._cells[first : self._bottom + 1] = moved

    def _control(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character in "\n\x0b\x0c":
            self._line_feed()
        elif character == "\b":
            self._x = max(0, min(self._x, COLUMNS - 1) - 1)
        elif character == "\t":
            self._x = min(COLUMNS - 1, self._x // 8 * 8 + 8)
        elif character in "\x0e\x0f":
            self._shift = int(character == "\x0e")

    def _escape(self, name: str) -> None:
        if name == "c":
            self._reset()
        elif name == "7":
            self._saved = (self._x, self._y)
        elif name == "8":
            self._x, self._y = self._saved
        elif name in "DE":
            self._x = 0 if name == "E" else self._x
            self._line_feed()
        elif name == "M":
            if self._y == self._top:
                self._shift_rows(self._top, -1)
            else:
                self._y = max(0, self._y - 1)

    def _sequence(self, final: str, text: str, private: str) -> None:
        if private:
            if text == "1049" and final in "hl":
                self._erase(0, 0, ROWS - 1, COLUMNS)
            return
        numbers = [min(int(word[:4] or 0), _MOST) for word in re.split("[;:]", text)]
        first = numbers[0]
        count = first or 1
        row = self._cells[self._y]
        x = min(self._x, COLUMNS - 1)
        if final in "Hf":
            self._go((numbers[1] or 1) - 1 if len(numbers) > 1 else 0, count - 1)
        elif final in "ABCDEFGd`ae":
            self._move(final, count)
        elif final == "J":
            start_at = (x, self._y) if first == 0 else (0, 0)
            self._erase(*start_at, *((self._y, x + 1) if first == 1 else (ROWS - 1, COLUMNS)))
        elif final == "K":
            start, end = (x, COLUMNS) if first == 0 else (0, x + 1 if first == 1 else COLUMNS)
            row[start:end] = [" "] * (end - start)
        elif final == "P":
            row[x:] = [*row[x + count :], *[" "] * min(count, COLUMNS - x)]
        elif final == "@":
            row[x:] = [*[" "] * min(count, COLUMNS - x), *row[x:]][: COLUMNS - x]
        elif final == "X":
            row[x : x + count] = [" "] * min(count, COLUMNS - x)
        elif final in "LM" and self._top <= self._y <= self._bottom:
            self._shift_rows(self._y, count if final == "M" else -count)
        elif final in "ST":
            self._shift_rows(self._top, count if final == "S" else -count)
        elif final == "r":
            last = numbers[1] if len(numbers) > 1 and numbers[1] else ROWS
            if count < last:
                self._top, self._bottom = min(count, ROWS) - 1, min(last, ROWS) - 1
                self._go(0, 0)
        elif final == "s":
            self._saved = (self._x, self._y)
        elif final == "u":
            self._x, self._y = self._saved

    def _move(self, final: str, count: int) -> None:
        x = min(self._x, COLUMNS - 1)
        if final in "AF":
            self._go(0 if final == "F" else x, self._y - count)
        elif final in "BeE":
            self._go(0 if final == "E" else x, self._y + count)
        elif final in "Ca":
            self._go(x + count, self._y)
        elif final == "D":
            self._go(x - count, self._y)
        elif final in "G`":
            self._go(count - 1, self._y)
        else:
            self._go(x, count - 1)

    def _go(self, x: int, y: int) -> None:
        self._x = max(0, min(x, COLUMNS - 1))
        self._y = max(0, min(y, ROWS - 1))

    def _erase(self, left: int, top: int, bottom: int, right: int) -> None:
        """Erase from (left, top) through the rows between to just before (right, bottom)."""
        for y in range(top, bottom + 1):
            start = left if y == top else 0
            end = right if y == bottom else COLUMNS
            self._cells[y][start:end] = [" "] * (end - start)
