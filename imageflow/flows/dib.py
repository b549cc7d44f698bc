"""The method `dib`: a static image by diskimage-builder."""

from __future__ import annotations

from taskflow.patterns import linear_flow

from imageflow.flows.publish import publish_image
from imageflow.tasks.describe import DescribeImage
from imageflow.tasks.disk import BuildDisk
from imageflow.tasks.inputs import CollectInputs
from imageflow.tasks.outputs import FinishOutputs
from imageflow.tasks.workspace import PrepareWorkspace


def build_by_dib() -> linear_flow.Flow:
    """Run diskimage-builder on the pinned inputs, then convert, describe and publish its output."""
    return linear_flow.Flow("dib").add(
        PrepareWorkspace(),
        CollectInputs(),
        BuildDisk(),
        FinishOutputs(),
        DescribeImage(),
        publish_image(),
    )
