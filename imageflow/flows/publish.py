"""The tail that all methods share."""

from __future__ import annotations

from taskflow.patterns import linear_flow

from imageflow.tasks.publish import PublishImage
from imageflow.tasks.workspace import RemoveWorkspace


def publish_image() -> linear_flow.Flow:
    """Store the finished files as a version, then clean up."""
    return linear_flow.Flow("publish").add(PublishImage(), RemoveWorkspace())
