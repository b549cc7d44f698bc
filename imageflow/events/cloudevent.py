"""Converts CloudEvents 1.0 to our Event: one reading for every way in which they come. Pure.

The library `cloudevents` writes ours. It does not read others': it refuses null, which the JSON format has for
"unset", invents missing ids and times, and takes times that are not RFC 3339.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from imageflow.errors import BadInput
from imageflow.events.reading import parse_json
from imageflow.model import Event

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_REQUIRED = ("specversion", "id", "source", "type")
_TEXTS = ("subject", "datacontenttype", "dataschema")
_NAME = re.compile(r"[a-z0-9]+", re.ASCII)
_JSON = re.compile(r"[^/\s]+/([^/\s]+\+)?json")
_CHARSETS = ("utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-16be")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d{1,30}))?(?:([Zz])|([+-])([01]\d|2[0-3]):?([0-5]\d))", re.ASCII
)


def media_type(content_type: str | None) -> str:
    """'application/json' of 'Application/JSON; charset=utf-8'."""
    return (content_type or "").partition(";")[0].strip().lower()


def of_json(value: Any, where: str) -> Event:
    """The Event of an object of the JSON format. Raises BadInput that begins with `where`."""
    if not isinstance(value, dict):
        raise BadInput(f"{where} is not a JSON object", hint="a CloudEvent has specversion, source, id, type, data")
    attributes = {name: one for name, one in value.items() if name not in ("data", "data_base64")}
    data, encoded = value.get("data"), value.get("data_base64")
    if data is not None and encoded is not None:
        raise BadInput(f"{where} has both data and data_base64")
    try:
        _check_names(attributes)
        if encoded is not None:
            data = _data(_decoded(encoded), attributes.get("datacontenttype"))
        return _event(attributes, data, _text_time)
    except BadInput as error:
        raise BadInput(f"{where} is not a CloudEvent: {error.message}", hint=error.hint) from None


def of_headers(attributes: Mapping[str, Any], content_type: str | None, body: bytes, where: str) -> Event:
    """The Event of a message that has the attributes beside its body. Raises BadInput that begins with `where`.

    `attributes`: as in the message, without prefix; a time may be a datetime, or AMQP's milliseconds since the epoch.
    """
    told = dict(attributes)
    if content_type is not None and content_type.strip():
        told["datacontenttype"] = content_type.strip()
    try:
        _check_names(told)
        return _event(told, _data(body, told.get("datacontenttype")), _time)
    except BadInput as error:
        raise BadInput(f"{where} is not a CloudEvent: {error.message}", hint=error.hint) from None


def read(text: bytes, where: str) -> list[Event]:
    """The events of a JSON document: one CloudEvent, or a list of them. Raises BadInput that names the place."""
    try:
        document = parse_json(text, where)
    except BadInput as error:
        raise BadInput(error.message, hint="a CloudEvent 1.0 in JSON, or a list of them") from None
    if not isinstance(document, list):
        return [of_json(document, f"{where}: it")]
    return [of_json(one, f"{where}: [{number}]") for number, one in enumerate(document)]


def moment(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for any other text. A leap second is the next one."""
    match = _TIME.fullmatch(text)
    if match is None or int(match[3]) > 60:
        return None
    try:
        local = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}:00+00:00")
    except ValueError:
        return None
    shift = 0 if match[5] else (int(match[7]) * 60 + int(match[8])) * 60 * (-1 if match[6] == "-" else 1)
    whole = local.timestamp() + int(match[3]) - shift
    return whole + float(f"0.{match[4] or 0}")


def _check_names(attributes: Mapping[str, Any]) -> None:
    for name in attributes:
        if not _NAME.fullmatch(name) or name == "data":
            raise BadInput(f"{name[:80]!r} is no name of an attribute", hint="lower-case letters and digits")


def _event(given: Mapping[str, Any], data: Any, time: Callable[[Any], float]) -> Event:
    attributes = {name: value for name, value in given.items() if value is not None}
    for name in _REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise BadInput(f"{name} is missing or not text", hint="CloudEvents 1.0 requires it")
    if attributes["specversion"] != "1.0":
        raise BadInput("specversion has to be 1.0")
    for name in _TEXTS:
        if name in attributes and (not isinstance(attributes[name], str) or not attributes[name]):
            raise BadInput(f"{name} is empty or not text", hint="leave it out when there is none")
    return Event(
        source=attributes["source"],
        id=attributes["id"],
        type=attributes["type"],
        subject=attributes.get("subject"),
        time=time(attributes["time"]) if "time" in attributes else None,
        data=data,
    )


def _time(value: Any) -> float:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return value / 1000
    return _text_time(value)


def _text_time(value: Any) -> float:
    found = moment(value) if isinstance(value, str) else None
    if found is None:
        raise BadInput("its time is not one with a time zone", hint="RFC 3339, such as 2026-01-31T12:00:00Z")
    return found


def _decoded(value: Any) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (AttributeError, ValueError, binascii.Error):
        raise BadInput("data_base64 is not base64") from None


def _data(body: bytes, content_type: Any) -> Any:
    """Bytes as data: the same ones are the same data, whichever way they came."""
    if not body:
        return None
    declared = content_type if isinstance(content_type, str) else None
    if _JSON.fullmatch(media_type(declared) or "application/json"):
        return parse_json(body, "its data")
    charset = _charset(declared)
    try:
        if charset in _CHARSETS:
            return body.decode(charset)
    except UnicodeDecodeError:
        pass
    return {"base64": base64.b64encode(body).decode("ascii")}


def _charset(content_type: str | None) -> str:
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return "utf-8"
