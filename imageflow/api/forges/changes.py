"""Changes of refs, in one form for all forges. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imageflow.api.forges.delivery import person, plain_url
from imageflow.errors import BadInput
from imageflow.model import Event

MOST = 1000  # refs in one delivery
_COMMIT = re.compile(r"[0-9a-f]{7,64}")  # Bitbucket Cloud tells the commits of a merge in twelve digits
_HEADS, _TAGS = "refs/heads/", "refs/tags/"


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository whose ref changed."""

    source: str  # its web URL, or another name
    path: str  # with its owner, 'acme/infra'
    url: str | None = None  # to clone or to look at

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def owner(self) -> str:
        return self.path.rpartition("/")[0]


def commit(value: str | None) -> str | None:
    """A commit's hash, as long as it was told; None for anything else, and for the zeros that mean no commit."""
    value = (value or "").lower()
    return value if value and _COMMIT.fullmatch(value) and value.strip("0") else None


def none_left(value: str | None) -> bool:
    """Whether these are the zeros that mean no commit."""
    return bool(value) and _COMMIT.fullmatch(value or "") is not None and not (value or "").strip("0")


def whole_ref(ref: str | None, kind: str | None = None) -> str | None:
    """'refs/heads/main' for a ref that may be given as 'main', by its kind: branch or tag."""
    if not ref or ref.startswith("refs/"):
        return ref or None
    return f"{_TAGS if kind == 'tag' else _HEADS}{ref}"


def ref_event(
    repository: Repository,
    ref: str | None,
    *,
    before: str | None,
    after: str | None,
    pusher: str | None,
    other: str,
    time: float | None = None,
    deleted: bool = False,
    merged: bool = False,
) -> Event:
    """The event of one change of one ref, without an id. `other`: its type when it is neither a branch nor a tag."""
    if not ref:
        raise BadInput("the payload does not say which ref changed")
    branch = ref.removeprefix(_HEADS) if ref.startswith(_HEADS) else None
    tag = ref.removeprefix(_TAGS) if ref.startswith(_TAGS) else None
    if branch is None and tag is None:
        kind = other
    elif deleted or none_left(after):
        kind = "git.delete"
    elif merged:
        kind = "git.merge"
    elif commit(after) is None:
        raise BadInput(f"the payload does not say which commit {ref} has now")
    else:
        kind = "git.push" if tag is None else "git.tag"
    return Event(
        source=repository.source,
        id="",
        type=kind,
        subject=ref,
        time=time,
        data={
            "repository": repository.name,
            "owner": repository.owner,
            "ref": ref,
            "branch": branch,
            "tag": tag,
            "before": commit(before),
            "after": commit(after),
            "pusher": person(pusher),
            "url": plain_url(repository.url),
        },
    )


def numbered(delivery: str, events: Sequence[Event]) -> list[Event]:
    """The events of one delivery with their ids: its own id for one, DELIVERY/1 and so on for several."""
    if len(events) > MOST:
        raise BadInput(f"the payload has changes of {len(events)} refs, at most {MOST} are accepted")
    if len(events) == 1:
        return [dataclasses.replace(events[0], id=delivery)]
    return [dataclasses.replace(event, id=f"{delivery}/{n}") for n, event in enumerate(events, 1)]
