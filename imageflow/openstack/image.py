"""An image as Glance describes it, and the properties that mark our images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.openstack.properties import OURS

PREFIX = OURS
BUILD, KEY, RECIPE = f"{PREFIX}build_id", f"{PREFIX}key", f"{PREFIX}recipe"
SELF = f"{PREFIX}self"  # the image's own id: an image made from it inherits the property, but has another id
CREATED = f"{PREFIX}created"  # start of its creation: seconds since the epoch, with a fixed number of digits
WHOLE = f"{PREFIX}whole"  # of a published image: it must not be removed as a duplicate
_HALF = ("queued", "saving", "importing", "uploading", "killed")  # states of a running or aborted upload


@dataclass(frozen=True, slots=True)
class GlanceImage:
    """An image as Glance describes it."""

    id: str
    name: str
    status: str  # active, queued, saving, …
    data: Mapping[str, Any]  # the whole record

    @property
    def active(self) -> bool:
        return self.status == "active"

    @property
    def half(self) -> bool:
        """Whether its data is missing or incomplete."""
        return self.status in _HALF

    @property
    def inherited(self) -> bool:
        """Whether its properties were copied by Nova or Cinder from the image it was made from."""
        return self.says(SELF) not in ("", self.id) or self.says("image_type") in ("snapshot", "backup")

    @property
    def size(self) -> int:
        """Size of its data in bytes; 0 while there is none."""
        return int(self.data.get("size") or 0)

    @property
    def hash(self) -> str:
        """'ALGORITHM:HEX' of its data; '' while there is none."""
        algorithm, value = self.data.get("os_hash_algo"), self.data.get("os_hash_value")
        return f"{algorithm}:{value}" if algorithm and value else ""

    def age(self) -> tuple[str, str, str]:
        """Sort key, oldest first: Glance's own times are whole seconds."""
        return self.says("created_at"), self.says(CREATED), self.id

    def says(self, name: str) -> str:
        """One of its properties, '' if not set."""
        return str(self.data.get(name) or "")
