"""An image as Glance describes it, and the properties by which we know what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.openstack.properties import OURS

PREFIX = OURS
BUILD, KEY, RECIPE = f"{PREFIX}build_id", f"{PREFIX}key", f"{PREFIX}recipe"
SELF = f"{PREFIX}self"  # the image's own id: who was made of it inherits what it says, and has another one
CREATED = f"{PREFIX}created"  # when it was begun: seconds since the epoch, always with as many digits
WHOLE = f"{PREFIX}whole"  # of a published image: nobody takes it away for a copy of the same
_HALF = ("queued", "saving", "importing", "uploading", "killed")  # what an upload that goes on, or was ended, leaves


@dataclass(frozen=True, slots=True)
class Image:
    """An image as Glance describes it."""

    id: str
    name: str
    status: str  # active, queued, saving, …
    data: Mapping[str, Any]  # all of it

    @property
    def active(self) -> bool:
        return self.status == "active"

    @property
    def half(self) -> bool:
        """Whether its data is not there, or not all of it."""
        return self.status in _HALF

    @property
    def inherited(self) -> bool:
        """Whether what it says is not its own: Nova and Cinder copy it to what they make of an image."""
        return self.says(SELF) not in ("", self.id) or self.says("image_type") in ("snapshot", "backup")

    @property
    def size(self) -> int:
        """Bytes of its data; 0 while there is none."""
        return int(self.data.get("size") or 0)

    @property
    def hash(self) -> str:
        """'ALGORITHM:HEX' of its data; '' while there is none."""
        algorithm, value = self.data.get("os_hash_algo"), self.data.get("os_hash_value")
        return f"{algorithm}:{value}" if algorithm and value else ""

    def age(self) -> tuple[str, str, str]:
        """What images are sorted by, the oldest first: Glance's own times are whole seconds."""
        return self.says("created_at"), self.says(CREATED), self.id

    def says(self, name: str) -> str:
        """One of its properties, '' without it."""
        return str(self.data.get(name) or "")
