"""What heat asks a module of its `plugin_dirs` for: its types of resources and its constraints, by name."""

from __future__ import annotations

import logging
from typing import Any

LOG = logging.getLogger(__name__)

try:
    from imageflow.heat import constraints, resource
except ImportError:  # it would stop heat-engine, and every stack with it
    LOG.exception("OS::Imageflow::Image is not available: is the package imageflow-heat installed for heat's Python?")
    TYPES: dict[str, Any] = {}
    CONSTRAINTS: dict[str, Any] = {}
else:
    TYPES = {"OS::Imageflow::Image": resource.Image}
    CONSTRAINTS = {"imageflow.os": constraints.Os, "imageflow.image": constraints.Image}


def resource_mapping() -> dict[str, Any]:
    """The classes of resources."""
    return TYPES


def constraint_mapping() -> dict[str, Any]:
    """The classes of constraints."""
    return CONSTRAINTS
