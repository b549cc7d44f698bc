"""Recipes: loads and checks them, and provides the records that the rest of imageflow works with."""

from __future__ import annotations

from typing import Any

from imageflow.recipe.loading import load, plain_secret
from imageflow.recipe.records import ImageRecipe, MadeFrom, OnFailure, Recipe


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors; diskimage-builder provides its own part."""
    from imageflow.recipe.editor_schema import schema as whole

    return whole()


__all__ = ["ImageRecipe", "MadeFrom", "OnFailure", "Recipe", "load", "plain_secret", "schema"]
