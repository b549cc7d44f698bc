"""Common parts of the forges' modules, and safe access to fields of arbitrary JSON. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from imageflow.errors import BadInput
from imageflow.events import cloudevent
from imageflow.model import Event

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_MAIL = re.compile(r"[\w.+-]{1,64}@[\w.-]{1,255}")
_LONG = 1000  # characters of a string that are kept
_MANY = 50  # entries of a list that are kept
_PRIVATE = re.compile(r"token|secret|passw|credential|authorization|signature|api_?key|e?mail|avatar|_url$", re.I)


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One verified webhook."""

    id: str
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: Any = field(repr=False)  # JSON
    raw: bytes = field(repr=False, default=b"")  # the bytes it was read from


@dataclass(frozen=True, slots=True)
class Forge:
    """How one forge's webhooks work."""

    name: str  # of its endpoint
    title: str
    option: str  # in [webhooks], for its secret
    verify: Callable[[str, Mapping[str, str], bytes], str | None]  # (secret, headers, body) -> proof; BadSignature
    delivery_id: Callable[[Mapping[str, str], bytes], str | None]
    read: Callable[[WebhookDelivery], list[Event]]  # raises BadInput
    signature_headers: tuple[str, ...]  # any of them proves a delivery
    id_headers: tuple[str, ...]  # any of them names it; () if the body does
    event_header: str | None  # names what happened
    content_types: tuple[str, ...] = (JSON,)
    challenge: str | None = None  # WWW-Authenticate of a 401
    old_headers: tuple[str, ...] = ()  # which prove deliveries of older versions

    @property
    def accepts(self) -> tuple[str, ...]:
        """The headers of which a delivery has one at least."""
        return self.signature_headers + self.old_headers


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise BadInput(f"{where} is not a JSON object")
    return value


def inner(value: Any, *path: str) -> Any:
    """The value at the end of the path; None if there is no such path."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def text(value: Any, *path: str) -> str | None:
    """The non-empty string at the end of the path; None for anything else."""
    found = inner(value, *path)
    return found if isinstance(found, str) and found else None


def name_of(value: str | None, where: str) -> str:
    """What happened, in the forge's words; raises BadInput for what can't be part of an event's type."""
    if not value or not _NAME.fullmatch(value):
        raise BadInput(f"{where} does not say what happened")
    return value


def plain_url(value: str | None) -> str | None:
    """A web URL without user, password, query and fragment; None for anything else."""
    try:
        parts = urlsplit(value or "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    return SplitResult(parts.scheme, place, parts.path, "", "").geturl().rstrip("/")


def person(value: str | None) -> str | None:
    """A person's name, without an address."""
    cleaned = _MAIL.sub("", (value or "")[:_LONG]).replace("<>", "").strip()
    return cleaned or None


def moment(value: Any) -> float | None:
    """Seconds since the epoch of RFC 3339 text, or of a number of seconds; None for anything else."""
    try:
        if isinstance(value, str):
            if (exact := cloudevent.moment(value)) is not None:
                return exact
            parsed = datetime.datetime.fromisoformat(value)
            return parsed.timestamp() if parsed.tzinfo else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11:
            return float(value)
    except (ValueError, OverflowError):
        pass
    return None


def trimmed(value: Any, depth: int = 6) -> Any:
    """A payload without private or long parts: e-mail addresses, tokens, the many links."""
    if isinstance(value, dict):
        kept = [(key, one) for key, one in value.items() if len(key) <= 100 and not _PRIVATE.search(key)]
        return {key: trimmed(one, depth - 1) for key, one in kept[: _MANY * 2]} if depth else {}
    if isinstance(value, list):
        return [trimmed(one, depth - 1) for one in value[:_MANY]] if depth else []
    if isinstance(value, str):
        if "://" in value[:20]:
            return plain_url(value)
        return _MAIL.sub("…", value[:_LONG])
    return value
