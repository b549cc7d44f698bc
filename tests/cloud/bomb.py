"""A worker that kills itself with SIGKILL when a cloud has answered: `python -m tests.cloud.bomb CONFIG_FILE idle MOMENT`.

MOMENT is a pattern of a request, as in 'POST /servers/…/action rescue' or 'PUT /v2/images/…/file': no worker knows then
what the cloud has done. With 'half PATTERN' the worker dies when half of the data is sent.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from keystoneauth1.session import Session

from tests.small import worker
from tests.small.bomb import die


def _half(data: Any, size: int) -> Iterator[bytes]:
    """A file, or its pieces, of which the second half is never sent."""
    for piece in iter(lambda: data.read(1 << 16), b"") if hasattr(data, "read") else data:
        yield piece
        size -= 2 * len(piece)
        if size <= 0:
            die()


def said(method: str, url: str, body: Any) -> str:
    """A request in words; for an action, with its name."""
    known = json.loads(body) if isinstance(body, str | bytes) else body
    action = next(iter(known), "") if isinstance(known, dict) else ""  # a file's data must not be read here
    return f"{method} {urlsplit(url).path} {action}"


def arm(moment: str) -> None:
    half, pattern = moment.startswith("half "), re.compile(moment.removeprefix("half "))
    send = Session.request

    @functools.wraps(send)
    def request(self: Session, url: str, method: str, **more: Any) -> Any:
        meant = pattern.search(said(method, url, more.get("json") or more.get("data")))
        if meant and half:
            sizes = [value for name, value in more["headers"].items() if str(name).lower().endswith("image-size")]
            more["data"] = _half(more["data"], int(sizes[0]) if sizes else 0)
        answer = send(self, url, method, **more)
        if meant:
            die()
        return answer

    Session.request = request  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[-1])
    worker.main()
