"""Strict, bounded JSON parsing for untrusted input; an error says where, and is always a BadInput. Pure."""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any, NoReturn

from imageflow.errors import BadInput

DEPTH = 64  # deeper than any honest sender nests
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes, what: str = "the body") -> Any:
    """Parse bytes as JSON; raises BadInput, whose message begins with `what`."""
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{what} is not text in UTF-8 (byte {error.start})") from None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise BadInput(f"{what} is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else _short(error)
        raise BadInput(f"{what} is not usable JSON: {reason}") from None
    check_depth(value, what)
    if _HALF.search(raw):
        check_text(value, what)
    return value


def check_depth(value: Any, what: str) -> None:
    """Raises BadInput for nesting that our own code would not follow."""
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise BadInput(f"{what} is nested deeper than {DEPTH} levels")


def check_text(value: Any, what: str) -> None:
    """Raises BadInput for half surrogates: no database stores them."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{what} has half a surrogate pair in a string") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _short(error: Exception) -> str:
    return str(error).partition(";")[0][:200]
