"""A text file that may be growing, or one range of it.

Not Starlette's FileResponse: it promises the size it saw and sends what is there later, and its entity tag changes
with every line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from starlette.responses import Response, StreamingResponse

from imageflow.api.responses import ID_HEADER

_BLOCK = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_CONTENT_RANGE = {"Content-Range": {"description": "bytes FIRST-LAST/SIZE", "schema": {"type": "string"}}}
DECLARED: dict[int | str, dict[str, Any]] = {
    200: {"description": "All of it, as it is now.", "content": _TEXT, "headers": ID_HEADER},
    206: {"description": "The range.", "content": _TEXT, "headers": ID_HEADER | _CONTENT_RANGE},
    416: {"description": "There is nothing in this range yet.", "headers": ID_HEADER | _CONTENT_RANGE},
}


def answer(path: Path, wanted: str | None) -> Response:
    """What the header Range asks for, or everything; a file that does not exist yet is empty."""
    try:
        file = open(path, "rb", opener=_not_followed)  # noqa: SIM115 - closed after the answer, also one that is not sent
    except FileNotFoundError:
        file = open(os.devnull, "rb")  # noqa: SIM115
    size = os.fstat(file.fileno()).st_size
    start, end, status = 0, size, 200
    headers = {"accept-ranges": "bytes"}
    asked = _RANGE.fullmatch(wanted.strip()) if wanted else None
    if asked is not None and (asked[1] or asked[2]):  # any other form is ignored, as RFC 9110 has it
        status = 206
        start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        end = min(size, int(asked[2]) + 1) if asked[1] and asked[2] else size
        if start >= end:
            file.close()
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    return StreamingResponse(_parts(file, start, end), status, headers, "text/plain; charset=utf-8")


def _not_followed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _parts(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = end - start
        while left and (data := file.read(min(left, _BLOCK))):
            left -= len(data)
            yield data
