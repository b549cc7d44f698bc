"""Turns notifications of OpenStack's services into events without secrets. Pure."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from imageflow.errors import BadInput
from imageflow.model import Event

_SERVICES = {  # service by the first word of the publisher_id, where that differs from the service's name
    "image": "glance",
    "compute": "nova",
    "conductor": "nova",
    "scheduler": "nova",
    "api": "nova",
    "network": "neutron",
    "identity": "keystone",
    "volume": "cinder",
    "snapshot": "cinder",
    "backup": "cinder",
    "orchestration": "heat",
}
_PUBLISHER = re.compile(r"(?P<service>[A-Za-z][A-Za-z0-9_]*)[^.:]*([.:].*)?", re.DOTALL)
_TYPE = re.compile(r"[^\s\x00-\x1f]{1,200}")
_OBJECT = re.compile(r"[a-z]+_object\.data")  # oslo.versionedobjects': nova_object.data, ironic_object.data, …
_MAJORS = {"InstanceUpdatePayload": ("1", "2")}  # that we can read; a newer minor version has more fields
_MAJOR = ("1",)  # of all others
_UPLOADING = ("queued", "saving", "uploading", "importing")  # not a set: a status may be any JSON
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)|admin_?pass|auth_?token|private_?key|user_?data|credential|service_?catalog"
    r"|(^|_)(pass|tokens?|secrets?|cookies?|authorization|ctxt|context|injected_files?|personality)(_|$)"
)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECRET_VALUE = re.compile(r"gAAAA[A-Za-z0-9_-]{40,}={0,2}|(?<=://)[^/@\s]+(?=@)")  # Keystone's tokens; user:password
_SECRET_BYTES = re.compile(rb"pass(?:word|wd)?|token|secret|user_?data|credential|private_?key|gAAAA", re.IGNORECASE)


def events_of(message: Mapping[str, Any], *, now: float, remembered: float) -> list[Event]:
    """The events of a notification, in order; [] when it is a detail of an unfinished upload.

    `message` is oslo.messaging's: publisher_id, event_type, priority, payload, message_id, timestamp. Its context,
    which holds a token, must not be in it. `remembered`: seconds that the inbox keeps events.
    Raises BadInput for an invalid notification, or one that this version of imageflow can't read.
    """
    service = service_of(message.get("publisher_id"))
    kind = message.get("event_type")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise BadInput("the notification has no event_type")
    try:
        data = cleaned(_unpacked(message.get("payload")))
        identity = _identity(message, data)
    except (RecursionError, ValueError, TypeError) as error:
        raise BadInput(f"the notification's payload is not JSON: {error}") from error
    priority = str(message.get("priority")).lower()
    if priority in ("error", "critical") and not kind.endswith(".error"):
        kind += ".error"  # so that no trigger takes 'could not upload' for 'uploaded'
    if isinstance(data, str):
        data = {"message": data}
    event = Event(
        source=service,
        id=identity,
        type=f"{service}.{kind}",
        subject=_subject(data),
        time=_moment(message.get("timestamp")),
        data=data,
    )
    if event.type in ("glance.image.activate", "glance.image.update"):
        return _image(event, now, remembered)
    return [event]


def service_of(publisher: object) -> str:
    """The service behind a publisher_id, such as 'image.host1', 'nova-compute:host1'."""
    match = _PUBLISHER.fullmatch(publisher) if isinstance(publisher, str) else None
    if match is None:
        raise BadInput("the notification has no publisher_id")
    word = match["service"].lower()
    return _SERVICES.get(word, word)


def cleaned(value: Any) -> Any:
    """JSON without secrets."""
    if isinstance(value, Mapping):
        return {str(key): cleaned(item) for key, item in value.items() if not _secret(str(key))}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return _SECRET_VALUE.sub("***", value) if isinstance(value, str) else value


def without_secrets(raw: bytes) -> bytes:
    """What can be kept of unreadable bytes: up to the first possible secret."""
    match = _SECRET_BYTES.search(raw)
    return raw if match is None else raw[: match.start()] + b"(cut here: what follows may be a secret)"


def _unpacked(value: Any) -> Any:
    """Unwrap versioned objects; raises BadInput for an unknown major version."""
    if isinstance(value, list | tuple):
        return [_unpacked(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    for key in value:
        if isinstance(key, str) and _OBJECT.fullmatch(key):
            prefix = key.removesuffix(".data")
            version = value.get(f"{prefix}.version")
            name = value.get(f"{prefix}.name")
            majors = _MAJORS.get(name, _MAJOR) if isinstance(name, str) else _MAJOR
            if not isinstance(version, str) or version.split(".")[0] not in majors:
                raise BadInput(
                    f"{name} has version {version}, and this imageflow reads {majors[-1]}.x",
                    hint="a newer imageflow may",
                )
            return _unpacked(value[key])
    return {key: _unpacked(item) for key, item in value.items()}


def _secret(key: str) -> bool:
    return _SECRET_KEY.search(_HUMP.sub("_", key).lower().replace("-", "_")) is not None


def _image(event: Event, now: float, remembered: float) -> list[Event]:
    """An image's content is one event, whichever notification reports it first; each change of its properties is another.

    Glance sends image.activate when data is uploaded, and only image.update when an image gets its data in another
    way; it sends image.update many times during an upload, and whenever a property changes, even years later.
    """
    data = event.data
    image = data.get("id") if isinstance(data, Mapping) else None
    if not isinstance(image, str) or not image:
        raise BadInput(f"{event.type.partition('.')[2]} without an image")
    content = Event(
        source=event.source,
        id=f"image:{image}:{data.get('checksum') or ''}",
        type="glance.image.activate",
        subject=event.subject,
        time=event.time,
        data=data,
    )
    if event.type == content.type:
        return [content]
    if data.get("status") in _UPLOADING:
        return []
    if data.get("status") != "active":
        return [event]
    created = _moment(data.get("created_at"))
    if created is not None and (event.time or now) - created > remembered:
        return [event]  # the inbox may have forgotten its activation: only a change of its properties is certain
    return [content, event]


def _identity(message: Mapping[str, Any], data: Any) -> str:
    """message_id is unique per notification, and the same when it is redelivered."""
    given = message.get("message_id")
    if isinstance(given, str) and given:
        return given
    told = [str(message.get(name)) for name in ("publisher_id", "event_type", "timestamp")]
    return "sha256:" + hashlib.sha256(json.dumps([told, data], sort_keys=True).encode()).hexdigest()


def _subject(data: Any) -> str | None:
    if isinstance(data, Mapping):
        for name in ("name", "display_name", "hostname", "id", "uuid", "image_id", "instance_id"):
            if isinstance(value := data.get(name), str) and value:
                return value
    return None


def _moment(text: object) -> float | None:
    """Seconds since the epoch; services write UTC, with or without a zone."""
    try:
        moment = datetime.datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is None:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
