"""Recipe values that may contain references to secrets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def resolved(value: Any, secret: Callable[[str], str]) -> Any:
    """The value with each `{"secret": NAME}` replaced by the secret."""
    if isinstance(value, Mapping):
        if set(value) == {"secret"} and isinstance(value["secret"], str):
            return secret(value["secret"])
        return {key: resolved(each, secret) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(each, secret) for each in value]
    return value
