"""Text that people write: whatever encoding and line ends an editor gave it, read as one thing."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from imageflow.errors import NotText

_BOMS = (  # the longer ones first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """A text with plain line ends and without a byte order mark."""

    text: str
    notes: tuple[str, ...] = ()  # how it is stored, where that is not plain: "is UTF-16, and used as UTF-8"


def read(data: bytes, encoding: str = "utf-8", *, script: bool = False) -> Text:
    """The text of a file; `encoding` is that of one without a byte order mark.

    Line ends of Windows and of old Macs become plain ones; in a `script` only if its first line has one: a single
    one within, such as in a here-document, is meant. Raises NotText.
    """
    bom, codec, name = next((known for known in _BOMS if data.startswith(known[0])), (b"", encoding, encoding.upper()))
    try:
        text = data[len(bom) :].decode(codec)
    except UnicodeDecodeError as error:
        at = len(bom) + error.start
        line = 0 if name.endswith(("16", "32")) else data.count(b"\n", 0, at) + 1
        raise NotText(f"byte 0x{data[at]:02x} is not {name}", line=line) from None
    notes = [f"is {name}, and used as UTF-8"] if name.endswith(("16", "32")) else []
    if script and "\r\n" in text and not text.partition("\n")[0].endswith("\r"):
        notes.append("has Windows line ends in some of its lines: they stay")
    elif "\r\n" in text:
        text = text.replace("\r\n", "\n")
        notes.append("has Windows line ends, and is used with plain ones")
    elif "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
        notes.append("has the line ends of old Macs, and is used with plain ones")
    return Text(text, tuple(notes))


def is_text(data: bytes) -> bool:
    """Whether it is text that `read` takes, and not a program or an archive."""
    if b"\0" in data and not any(data.startswith(bom) for bom, _codec, name in _BOMS if name != "UTF-8"):
        return False
    try:
        return "\0" not in read(data).text
    except NotText:
        return False
