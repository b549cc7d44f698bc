"""Where plain secrets of a recipe are kept out of what is stored, and where they are refused; pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.recipe import plain_secrets
from imageflow.recipe.definition import Fault
from imageflow.recipe.problems import Path

# Mappings of an entry of `configure` or `verify` whose values can be references to secrets.
_REFERABLE = (("shell", "environment"), ("ansible", "variables"), ("salt", "pillar"))
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # of a path that can be read back
# Free text, which may quote such a URL: what it holds is masked where it is shown, but not refused.
_FREE = ("run", "content", "playbook")
_NETRC = "remove them, and keep them on the host that builds: in ~/.netrc, or in git's credential helper"


def way_out(plain: plain_secrets.Plain) -> str:
    """What to write instead of a plain secret."""
    if any(key in plain_secrets.VALUES for key in plain.path) and "properties" not in plain.path:
        return "write {secret: NAME}: everyone who reads the recipe can read it"
    return "take it out: everyone who reads the recipe, or the image's manifest, could read it"


def refused(image: Any) -> Iterator[Fault]:
    """URLs with credentials, wherever an image's raw recipe has one (`on` has its own check); references to no secret."""
    yield from _bad_references(image, ())
    for path, text in _texts({key: value for key, value in image.items() if key != "on"} if _is_map(image) else {}, ()):
        if plain_secrets.has_credentials(text) and not any(key in _FREE for key in path) and path[-2:-1] != ("shell",):
            referable = any(key in ("environment", "variables", "pillar") for key in path)
            hint = "write {secret: NAME}: the secret is the whole URL" if referable else _NETRC
            yield Fault(path, "has credentials in its URL", hint)


def veil(canonical: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The canonical recipe with references, which begin with `prefix`, in place of plain secrets where one can be."""
    found = copy.deepcopy(canonical)
    for kind in ("configure", "verify"):
        for index, step in enumerate(found.get(kind, ())):
            for provisioner, key in _REFERABLE:
                values = step.get(provisioner, {}).get(key) if _is_map(step.get(provisioner)) else None
                if isinstance(values, dict):
                    _veil(values, f"{prefix}{kind}/{index}/{provisioner}/{key}")
    return found


def at(image: Any, place: str) -> str | None:
    """The text at a path of keys, `configure/0/shell/environment/NAME`; None when there is none."""
    for key in place.split("/"):
        if isinstance(image, list) and key.isdigit() and int(key) < len(image):
            image = image[int(key)]
        else:
            image = image.get(key) if _is_map(image) else None
    return image if isinstance(image, str) else None


def _veil(values: dict[str, Any], place: str) -> None:
    for key, value in values.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            continue
        if _is_map(value):
            if not plain_secrets.is_reference(value):
                _veil(value, f"{place}/{key}")
        elif isinstance(value, str) and plain_secrets.what(key, value) is not None:
            values[key] = {"secret": f"{place}/{key}"}


def _bad_references(value: Any, path: Path) -> Iterator[Fault]:
    """References to what is not a secret's name: `recipe:…` would be another recipe's plain secret."""
    if plain_secrets.is_reference(value) and isinstance(value["secret"], str):
        if value["secret"].startswith("recipe:"):
            yield Fault(
                path, "is not a reference to a secret", "{secret: NAME}; a name is letters, digits, '_', '.' and '-'"
            )
    elif _is_map(value):
        for key, item in value.items():
            yield from _bad_references(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _bad_references(item, (*path, index))


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if _is_map(value):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
    elif isinstance(value, str):
        yield path, value


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)
