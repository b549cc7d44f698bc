"""The forms in which a secret can be in an image: as it is, and as programs write it into their files."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

SHORTEST = 6  # bytes: anything shorter is in every image by chance
_MOST = 8  # lines that stand for a longer text
_MARK = re.compile(r"-----(BEGIN|END) [^-]+-----")  # of a PEM or OpenSSH key: the same in all of them
_HASH = re.compile(r"\$[0-9a-z]{1,3}\$[./A-Za-z0-9=,$+-]{13,}")  # crypt(5): what /etc/shadow is there to hold
_USERINFO = re.compile(r"://(?P<both>[^\s/@:'\"]*:(?P<password>[^\s/@'\"]+)@)")


def parts(value: str) -> list[str]:
    """The texts by which a secret is recognized; none if it is too short, or a crypt(5) hash.

    The lines of a text, without what all keys of a format share; the longest if there are many. Of a URL with
    credentials also the credentials alone.
    """
    if _HASH.fullmatch(value.strip()):
        return []
    lines = [line.strip() for line in value.splitlines()]
    marks = [number for number, line in enumerate(lines) if _MARK.fullmatch(line)]
    shared = set(marks)
    if len(lines) > 4:  # the first line of a key's body tells little but its kind and length
        shared |= {number + 1 for number in marks if "BEGIN" in lines[number]}
    kept = [line for number, line in enumerate(lines) if number not in shared and _long(line)]
    found = sorted(dict.fromkeys(kept), key=len, reverse=True)[:_MOST]
    for match in (match for line in kept for match in _USERINFO.finditer(line)):
        for text in (match["password"], urllib.parse.unquote(match["password"])):
            found.append(text if _long(text) else match["both"])
    return [text for text in dict.fromkeys(found) if _long(text)]


def forms(values: Iterable[str]) -> dict[bytes, str]:
    """Every byte string that means one of these secrets -> the name of its form, such as 'base64'."""
    found: dict[bytes, str] = {}
    for value in values:
        for part in parts(value):
            for text, form in _forms(part):
                found.setdefault(text, form)
    return found


def _long(text: str) -> bool:
    return len(text.encode()) >= SHORTEST


def _forms(text: str) -> Iterator[tuple[bytes, str]]:
    data = text.encode()
    yield data, "as it is"
    for quoted in _in_urls(text):
        yield quoted.encode(), "URL-encoded"
    for quoted in _in_json(text):
        yield quoted.encode(), "escaped as in JSON"
    for quoted in (html.escape(text), html.escape(text, quote=False), html.escape(text).replace("&#x27;", "&apos;")):
        yield quoted.encode(), "escaped as in XML"
    for quoted in (text.replace("'", "'\\''"), text.replace("'", "'\"'\"'"), re.sub(r'([$"`\\])', r"\\\1", text)):
        yield quoted.encode(), "quoted as in a shell"
    for line in _in_base64(data):
        yield line, "base64"
    yield data.hex().encode(), "hexadecimal"
    yield data.hex().upper().encode(), "hexadecimal"


def _in_urls(text: str) -> Iterator[str]:
    for quoted in (urllib.parse.quote(text, safe=""), urllib.parse.quote(text), urllib.parse.quote_plus(text)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)


def _in_json(text: str) -> Iterator[str]:
    for ascii in (True, False):
        once = json.dumps(text, ensure_ascii=ascii)[1:-1]
        yield once
        yield once.replace("/", "\\/")
        yield json.dumps(once, ensure_ascii=ascii)[1:-1]  # JSON in a text of JSON


def _in_base64(data: bytes) -> Iterator[bytes]:
    """At each of the three places where it can begin in an encoded text: the characters that depend on it alone."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        line = encoded[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        yield line
        yield line.translate(bytes.maketrans(b"+/", b"-_"))
