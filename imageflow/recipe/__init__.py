"""What a user writes: load, check, and the records that the rest of imageflow works with."""

from __future__ import annotations

from typing import Any

from imageflow.recipe.loading import load, plain_secret
from imageflow.recipe.records import ImageRecipe, Recipe


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors; diskimage-builder's own part comes from diskimage-builder."""
    from imageflow.recipe.editor_schema import schema as whole

    return whole()


__all__ = ["ImageRecipe", "Recipe", "load", "plain_secret", "schema"]
