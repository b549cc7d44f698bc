"""Short texts by which SQL finds the few triggers that an event may match among very many: pure.

A trigger has one probe: its type, and one value that some field must have. An event has a probe for each of
its values. Values share 65,536 numbers, so that an event of any size has at most twice as many probes,
and none is left out; triggers that only share a number are sorted out by `explain`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.events import fields
from imageflow.model import Event, Json, Trigger

_ANY = "*"  # the type is a glob
_DEEPEST = 50
# fields by how well they usually discriminate, best first; any other field is between the two
_TELLING = ("$id", "id", "image_id", "$subject", "repository", "name", "image", "$source", "url", "project")
_COMMON = ("owner", "visibility", "status", "state", "ref", "branch", "tag", "pusher", "unchanged", "$type")


def probe(trigger: Trigger) -> str:
    """The probe to store with the trigger, at most 32 characters: in `probes` of every event that it matches."""
    scope = _ANY if is_glob(trigger.type) else _scope(trigger.type)
    found = min(_equalities(trigger.where, 0), key=_rank, default=None)
    return scope if found is None else f"{scope}-{_bucket(*found):04x}"


def probes(event: Event) -> list[str]:
    """The probes to look for, each once: only a trigger with one of them can match the event."""
    buckets = sorted({_bucket(field, value) for field, value in fields.scalars(event)})
    scopes = (_scope(event.type), _ANY)
    return [*scopes, *(f"{scope}-{bucket:04x}" for scope in scopes for bucket in buckets)]


def is_glob(type: str) -> bool:
    """Whether a trigger's type is a glob."""
    return any(character in type for character in "*?[")


def _scope(type: str) -> str:
    return hashlib.blake2b(type.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def _bucket(field: str, value: Any) -> int:
    """One of 65,536 numbers; values made to share one only make us look at more triggers."""
    return zlib.crc32(f"{field}\0{fields.kind(value)}".encode("utf-8", "surrogatepass")) & 0xFFFF


def _equalities(where: Json, depth: int) -> Iterator[tuple[str, Any]]:
    """The values that fields must have, whatever the other conditions."""
    if not isinstance(where, Mapping) or depth > _DEEPEST:
        return
    for field, wanted in where.items():
        if field == "not":
            continue
        if field in ("all", "any"):
            if isinstance(wanted, list | tuple) and (field == "all" or len(wanted) == 1):
                for each in wanted:
                    yield from _equalities(each, depth + 1)
            continue
        if isinstance(wanted, Mapping):
            among = wanted.get("in")
            if not isinstance(among, list | tuple) or len(among) != 1:
                continue
            wanted = among[0]
        if isinstance(wanted, str | int | float) and _probed(field):
            yield field, wanted


def _probed(field: str) -> bool:
    """Whether an event's probes cover this field."""
    if field.startswith("$"):
        return field in ("$source", "$id", "$type", "$subject")
    return len(field) <= fields.LONG and field.count(".") < fields.DEPTH and not fields.by_index(field)


def _rank(equality: tuple[str, Any]) -> tuple[int, str, str]:
    field, value = equality
    if isinstance(value, bool) or field in _COMMON or (isinstance(value, str) and value.startswith("refs/")):
        place = len(_TELLING) + 1
    else:
        place = _TELLING.index(field) if field in _TELLING else len(_TELLING)
    return place, field, fields.kind(value)
