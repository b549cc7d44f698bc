"""What a process leaves in Glance when it is killed before the version is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.stores import About
from imageflow.stores.glance.addition import Addition
from imageflow.stores.glance.driver import GlanceStore


def sent(store: GlanceStore, files: Sequence[tuple[Path, Artifact]], build_id: str) -> None:
    """Leave these files of the version in Glance, not published."""
    Addition(store._images, store._config, files, build_id, About("web"), Control(), lambda _: None).send()
