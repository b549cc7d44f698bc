"""What a process leaves in Glance that was killed before the version was whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imageflow.control import Control
from imageflow.model import Artifact
from imageflow.stores import About
from imageflow.stores.glance.addition import Addition
from imageflow.stores.glance.driver import GlanceStore


def sent(store: GlanceStore, files: Sequence[tuple[Path, Artifact]], build_id: str) -> None:
    """These files of it have arrived, and nobody has published them."""
    Addition(store._images, store._config, files, build_id, About("web"), Control(), lambda _: None).send()
