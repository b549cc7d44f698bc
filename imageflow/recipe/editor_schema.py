"""The JSON Schema of recipes, composed from the models and diskimage-builder's own schema."""

from __future__ import annotations

import copy
from typing import Any

_TITLE = "imageflow recipe"


def schema() -> dict[str, Any]:
    """Draft 2020-12: `images:` and a list, or a bare list of diskimage-builder's entries."""
    from diskimage_builder import diskimage_builder

    from imageflow.recipe import conditions, fields, models
    from imageflow.recipe.document import EXTENSION

    parts: dict[str, Any] = {}
    methods = {}
    for method, model in models.METHODS.items():
        methods[method] = model.model_json_schema(ref_template="#/$defs/{model}")
        parts |= methods[method].pop("$defs", {})
    entry = copy.deepcopy(diskimage_builder.DIB_SCHEMA["items"])
    for key, described in _help().items():
        entry["properties"][key]["description"] = described
    own = copy.deepcopy(entry)
    own["properties"]["environment"]["additionalProperties"] = {"anyOf": [{"type": "string"}, fields.REFERENCE]}
    parts |= {models.METHODS[method].__name__: described for method, described in methods.items()}
    parts["EventTrigger"]["properties"]["where"] = {"$ref": "#/$defs/Condition"}
    parts |= {
        "Condition": conditions.SCHEMA,
        "Image": {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in models.METHODS.values()]},
        "DibDefinition": own,
    }
    methods["dib"]["properties"]["dib"] = {
        "description": "diskimage-builder's own image definition, verbatim; a list is merged as diskimage-builder does.",
        "anyOf": [
            {"$ref": "#/$defs/DibDefinition", "required": ["elements"]},
            {"type": "array", "items": {"$ref": "#/$defs/DibDefinition"}, "minItems": 1},
        ],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _TITLE,
        "anyOf": [
            {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"$ref": "#/$defs/Image"}, "minItems": 1}},
                "required": ["images"],
                "patternProperties": {f"^{EXTENSION}": {}},
                "additionalProperties": False,
            },
            {"type": "array", "items": entry, "minItems": 1, "title": "diskimage-builder's definition file"},
        ],
        "$defs": parts,
    }


def _help() -> dict[str, str]:
    from diskimage_builder import diskimage_builder

    return {prop.key: prop.description for prop in diskimage_builder.PROPERTIES}
