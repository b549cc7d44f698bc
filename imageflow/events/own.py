"""imageflow's own events: their source, which no other sender may use, and their types."""

from __future__ import annotations

from imageflow.model import Event, Version

OWN = "imageflow"  # the source
OWN_PREFIX = "imageflow:"

PUBLISH = "imageflow.image.publish"
SCHEDULE = "imageflow.schedule"
CHANGED = "imageflow.input.changed"
BEHIND = "imageflow.reconcile"  # an image is behind its base; the subject is the image


def own(source: str) -> bool:
    """Whether events of this source come from us, and must not come from outside."""
    return source == OWN or source.startswith(OWN_PREFIX)


def published_id(build_id: str) -> str:
    """The id of the event that a build's image has a new version."""
    return f"publish:{build_id}"


def published(version: Version) -> Event:
    """The event that an image has a new version."""
    return Event(
        source=OWN,
        id=published_id(version.build_id),
        type=PUBLISH,
        subject=version.image,
        time=version.created,
        data={
            "image": version.image,
            "build": version.build_id,
            "digest": version.digest,
            "content": version.content,
            "store": version.store,
            "properties": dict(version.properties),
        },
    )
