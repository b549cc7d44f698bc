"""The `on:` of an image: the events that trigger a rebuild. Checks single entries and all of them together."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from imageflow.recipe import conditions
from imageflow.recipe.definition import Fault
from imageflow.recipe.fields import MONTH, Name, Strict, wrong
from imageflow.recipe.inputs import is_id, is_url
from imageflow.recipe.problems import did_you_mean, listed, path_name, short

DAY = 86400.0  # seconds
_SOURCES = ("base", "iso")  # allowed in `watch:` besides files and URLs
_FETCHED = re.compile(r"(https?|file)://[^\s]+")
_CLONED = re.compile(r"(https?|ssh|git|file)://[^\s]+|[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:[^\s:]+|/[^\s]+")
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/@]*:[^/]*|[^/@]*)@")
_OURS = {  # families of types whose members are all known, so that mistakes are found
    "git.": ("git.push", "git.tag", "git.delete", "git.merge"),
    "imageflow.": ("imageflow.image.publish", "imageflow.schedule", "imageflow.input.changed"),
}
_FORGES_WORDS = {  # what forges call it: events have another type here, and nothing sends these
    "push": "git.push",
    "tag": "git.tag",
    "tag_push": "git.tag",
    "merge": "git.merge",
    "delete": "git.delete",
    "publish": "imageflow.image.publish",
    "schedule": "imageflow.schedule",
}
_NICKNAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
_CRON = "minute, hour, day of month, month, day of week, such as '0 3 * * *'"


def _cron(value: str) -> str:
    from cronsim import CronSim, CronSimError

    expression = " ".join(value.split())
    if len(expression) > 200 or len(expression.split(" ")) != 5:
        hint = f"write '{_NICKNAMES[expression]}'" if expression in _NICKNAMES else _CRON
        raise wrong(f"{value[:60]!r} is not a cron expression of five fields", hint)
    try:
        next(CronSim(expression, datetime.datetime.now(datetime.UTC)))
    except CronSimError as error:
        raise wrong(f"{value[:60]!r} is not a cron expression: {str(error).lower()}", _CRON) from None
    except StopIteration:
        raise wrong(f"{value[:60]!r} never comes", _CRON) from None
    except (ValueError, AssertionError, IndexError, RecursionError):
        raise wrong(f"{value[:60]!r} is not a cron expression", _CRON) from None
    return expression


def _zone(value: str) -> str:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(value, zoneinfo.available_timezones(), "a name such as Europe/Berlin, or UTC")
        raise wrong(f"{value[:60]!r} is not a time zone", hint) from None
    return value


def _type(value: str) -> str:
    if not value or len(value) > 200 or not value.isprintable() or " " in value:
        raise wrong("is not the type of an event", "such as git.push, or glance.image.*")
    if (meant := _FORGES_WORDS.get(value.lower())) is not None:
        raise wrong(f"nothing sends events of type {value!r}", f"write {meant}")
    for family, known in _OURS.items():
        if value.startswith(family) and value not in known and not any(each in value for each in "*?["):
            raise wrong(f"there are no events of type {value[:60]!r}", did_you_mean(value, known, listed(known)))
    return value


def _no_password(value: str) -> None:
    """Refuse credentials in a URL: every reader of the recipe would see them."""
    user = _PASSWORD.match(value)
    if user is not None and (":" in user[1] or value.startswith("http")):
        raise wrong("has a user's credentials in its URL", "keep them in git's own configuration, or ~/.netrc")


def _repository(value: str) -> str:
    if not _CLONED.fullmatch(value) or not value.isprintable() or len(value) > 1000:
        raise wrong("is not a repository's URL", "https://…, ssh://…, git://…, file://…, USER@HOST:PATH or /PATH")
    _no_password(value)
    return value


def _ref(value: str) -> str:
    if value == "HEAD":
        raise wrong("HEAD is not a ref that can be watched", "name the branch, such as main")
    if not re.fullmatch(r"[^\s~^:\\-][^\s~^:\\]{0,199}", value) or ".." in value or value.endswith("/"):
        raise wrong(f"{value[:60]!r} is not a ref", "a branch such as main, or refs/tags/v*")
    return value if value.startswith("refs/") else f"refs/heads/{value}"


def _watched(value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > 1000:
        raise wrong("can't be watched", "base, iso, a file, a folder, or a URL")
    if is_url(value):
        if not _FETCHED.fullmatch(value):
            raise wrong("has a URL that can't be watched", "http://, https:// or file://; a repository is {git: URL}")
        _no_password(value)
    return value


Every = Annotated[
    Annotated[float, Field(ge=1, le=MONTH)] | None,
    Field(description="Seconds between two looks; the configuration's by default."),
]


class ScheduleTrigger(Strict):
    """A time: the image is built if one of its inputs has changed by then."""

    schedule: Annotated[str, AfterValidator(_cron), Field(description="Cron's five fields.")]
    timezone: Annotated[str, AfterValidator(_zone), Field(description="Such as Europe/Berlin.")] = "UTC"
    jitter: Annotated[float, Field(ge=0, le=DAY, description="Longest random delay in seconds.")] = 0.0


class ImageTrigger(Strict):
    """Another image has a new, different version: the cascade."""

    image: Name


class EventTrigger(Strict):
    """An event came in."""

    event: Annotated[str, AfterValidator(_type), Field(description="Its type, exact or a glob: glance.image.*")]
    where: Annotated[dict[str, Any], Field(default_factory=dict, description="Conditions on its data.")]


class GitTrigger(Strict):
    """A ref moved in a repository that can't send us webhooks."""

    git: Annotated[str, AfterValidator(_repository), Field(description="The repository's URL.")]
    ref: Annotated[str, AfterValidator(_ref), Field(description="A branch, refs/…, or a glob.")]
    every: Every = None


class WatchTrigger(Strict):
    """A file, a folder or the content behind a URL changed."""

    watch: Annotated[str, AfterValidator(_watched), Field(description="base, iso, a path or a URL.")]
    every: Every = None


KINDS: dict[str, type[Strict]] = {
    "schedule": ScheduleTrigger,
    "image": ImageTrigger,
    "event": EventTrigger,
    "git": GitTrigger,
    "watch": WatchTrigger,
}


def _kind(value: Any) -> str | None:
    """The kind that an entry is meant to be."""
    if isinstance(value, Strict):
        return next(kind for kind, model in KINDS.items() if isinstance(value, model))
    if not isinstance(value, Mapping):
        return None
    for kind in KINDS:
        if kind in value:
            return kind
    near = (kind for kind in KINDS for key in value if did_you_mean(str(key), [kind]))
    return next(near, None)


Entry = Annotated[
    Annotated[ScheduleTrigger, Tag("schedule")]
    | Annotated[ImageTrigger, Tag("image")]
    | Annotated[EventTrigger, Tag("event")]
    | Annotated[GitTrigger, Tag("git")]
    | Annotated[WatchTrigger, Tag("watch")],
    Discriminator(_kind),
]
On = Annotated[list[Entry], Field(max_length=100, description="The events that trigger a new build.")]


def mean(kind: str, word: str) -> str:
    """The hint for a key that an entry of this kind does not have."""
    if word in KINDS:
        return f"write it as an entry of its own: - {{{word}: …}}"
    if kind == "event" and not did_you_mean(word, ["where"]):
        return f"conditions on the event go below 'where:': where: {{{short(word)}: …}}"
    owners = [owner for owner, model in KINDS.items() if word in model.model_fields and owner != kind]
    if owners:
        return f"it belongs to {listed(f'{{{owner}: …}}' for owner in owners)}"
    known = list(KINDS[kind].model_fields)
    return did_you_mean(word, known, f"known keys: {', '.join(known)}")


def faults(image: Mapping[str, Any], folder: Path) -> Iterator[Fault]:
    """Faults in raw data that the models can't find; wrong types are left to them. `folder` is the recipe's."""
    entries = image.get("on")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, Mapping):
            continue
        if isinstance(entry.get("where"), Mapping):
            yield from conditions.faults(entry["where"], ("on", index, "where"))
        if isinstance(entry.get("image"), str) and entry["image"] == image.get("name"):
            yield Fault(("on", index, "image"), "an image can't ask for itself", "remove the entry")
        if isinstance(entry.get("watch"), str) and (wrong := _unwatchable(entry["watch"], image, folder)):
            yield Fault(("on", index, "watch"), *wrong)


def _unwatchable(watch: str, image: Mapping[str, Any], folder: Path) -> tuple[str, str] | None:
    """Why it can't be watched, and the way out; None when it can."""
    if watch in _SOURCES:
        source = image.get(watch)
        if not isinstance(source, Mapping):
            return f"the image has no {watch!r}", f"a file of this name is written ./{watch}"
        if "image" in source:
            return "its base is an image", f"write {{image: {short(source['image'])}}} instead"
        if isinstance(source.get("glance"), str) and is_id(source["glance"]):
            return f"its {watch} can't change: the recipe names it by its id", "use its name in Glance instead"
        if "sha256" in source:
            return f"its {watch} can't change: its sha256 is in the recipe", "use 'checksums:' instead"
        return None
    if is_url(watch):
        return None
    try:
        os.stat(folder / watch)
    except FileNotFoundError:
        return f"there is no file or folder {short(watch)}", f"paths are relative to {path_name(folder)}"
    except (OSError, ValueError):
        return f"{short(watch)} can't be watched", "check the path and its permissions"
    return None


def canonical(entries: Sequence[Any], one_name: Callable[[str], str]) -> list[dict[str, Any]]:
    """The entries with every default filled in; `one_name` normalizes a local path."""
    return [_whole(entry.model_dump(), one_name) for entry in entries]


def _whole(entry: dict[str, Any], one_name: Callable[[str], str]) -> dict[str, Any]:
    watch = entry.get("watch")
    if watch is not None and watch not in _SOURCES and not is_url(watch):
        name = one_name(watch)
        entry["watch"] = f"./{name}" if name in _SOURCES else name
    return entry
