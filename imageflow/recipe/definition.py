"""diskimage-builder's own image definition: checked and merged by diskimage-builder's code, worded by ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from imageflow.recipe.problems import Path, did_you_mean, listed, short

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ELEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SECRET_WORDS = ("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "PRIVATE_KEY", "API_KEY")
_FLAGS = ("", "0", "1", "true", "false", "yes", "no", "on", "off")
_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s@]*@")  # scheme://user:pass@
_KINDS = {
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "boolean": "true or false",
    "integer": "a whole number",
}
_OUTPUTS = ("qcow2", "raw", "tar", "tgz", "squashfs", "vhd", "aci")


class Fault(NamedTuple):
    """Something wrong in a definition."""

    path: Path  # below the list of entries
    message: str
    hint: str = ""
    wanted: str = ""  # for a wrong type: what is wanted; the place knows what was written


def keeps_secret(variable: str) -> bool:
    """Whether a variable's name says that its value is secret."""
    return any(word in variable.upper() for word in _SECRET_WORDS)


def is_secret(variable: str, value: str) -> bool:
    """Whether a plain value must not be stored or shown: by the variable's name, or as a URL with credentials."""
    return (keeps_secret(variable) and value.lower() not in _FLAGS) or _CREDENTIALS.search(value) is not None


def merge(definitions: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The entries of each image as one, in diskimage-builder's way; the definitions must be without faults.

    Values of an environment are text or `{"secret": NAME}`.
    """
    from diskimage_builder import diskimage_builder

    whole: list[dict[str, Any]] = []  # in one go: it checks its own schema each time it is called
    firsts: list[dict[str, Any]] = []
    references: dict[str, dict[str, str]] = {}
    for number, definition in enumerate(definitions):
        entries = _veiled(definition, references)
        for entry in entries:
            entry["imagename"] = str(number)
        whole += entries
        firsts.append(entries[0])
    diskimage_builder.build_commands(whole)  # merges all entries of an image into its first one
    return [_unveiled(first, definition, references) for first, definition in zip(firsts, definitions, strict=True)]


def _unveiled(
    merged: dict[str, Any], definition: list[dict[str, Any]], references: Mapping[str, dict[str, str]]
) -> dict[str, Any]:
    """A merged entry with its own name and its references to secrets again."""
    entry = copy.deepcopy(merged)
    del entry["imagename"]
    for given in definition:
        if "imagename" in given:
            entry["imagename"] = given["imagename"]
    environment = entry.get("environment", {})
    for name, value in environment.items():
        if value in references:
            environment[name] = dict(references[value])
    return entry


def faults(definition: Any) -> Iterator[Fault]:
    """What diskimage-builder would not take, or could not build, in a list of entries."""
    from diskimage_builder import diskimage_builder
    from jsonschema.validators import validator_for

    if not isinstance(definition, list):
        yield Fault(
            (), "is not a definition", "write diskimage-builder's own: a mapping with 'elements', or a list of such"
        )
        return
    if not definition:
        yield Fault((), "is empty", "write at least 'elements'")
        return
    yield from _bad_references(definition)
    entries = _veiled(definition, {})
    schema = diskimage_builder.DIB_SCHEMA
    clean = True
    for error in validator_for(schema)(schema).iter_errors(entries):
        clean = False
        yield from _worded(error, definition)
    if clean:
        yield from _unbuildable(definition)


def image_names(definition: list[dict[str, Any]]) -> list[str]:
    """The image that each entry is for, as diskimage-builder reads it: an entry without a name goes on with the last."""
    names, name = [], "image"
    for entry in definition:
        name = entry.get("imagename", name)
        names.append(name)
    return names


def outputs(entry: Mapping[str, Any]) -> list[str]:
    """The outputs that a definition asks for."""
    if entry.get("ramdisk"):
        return ["kernel"]
    types = [kind for kind in entry.get("types", []) if kind in _OUTPUTS]
    return list(dict.fromkeys(types)) or ["qcow2"]


def elements(entry: Mapping[str, Any]) -> list[str]:
    """The elements it names; diskimage-builder's shell splits them at blanks."""
    return [name for item in entry.get("elements", []) for name in item.split()]


def has_boot_loader(canonical: Mapping[str, Any]) -> bool:
    """Whether a machine starts from the disk of this canonical recipe by itself, and needs no kernel from elsewhere."""
    if "machine" in canonical:  # it was booted from its own disk
        return True
    named = (canonical.get("dib") or {}).get("elements") or ()
    return any(name == "vm" or name.startswith("block-device-") for name in named if isinstance(name, str))


def _environment(entry: Any) -> dict[str, Any]:
    """An entry's environment, whatever the entry is."""
    found = entry.get("environment") if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def _veiled(definition: list[Any], references: dict[str, dict[str, str]]) -> list[Any]:
    """A copy with text in place of references to secrets, which diskimage-builder does not know."""
    entries = copy.deepcopy(definition)
    for entry in entries:
        environment = _environment(entry)
        for name, value in environment.items():
            if isinstance(value, dict):
                veil = f"\0secret {len(references)}"  # NUL: no value of a recipe can be equal
                references[veil] = value
                environment[name] = veil
    return entries


def _bad_references(definition: list[Any]) -> Iterator[Fault]:
    for index, entry in enumerate(definition):
        for name, value in _environment(entry).items():
            here: Path = (index, "environment", name)
            if not _VARIABLE.fullmatch(name):
                yield Fault(
                    here,
                    f"{short(name)!r} is not a variable's name",
                    "letters, digits and '_', not beginning with a digit",
                )
            if isinstance(value, dict):
                secret = value.get("secret")
                if set(value) != {"secret"} or not isinstance(secret, str) or not SECRET_NAME.fullmatch(secret):
                    yield Fault(
                        here,
                        "is not a reference to a secret",
                        "{secret: NAME}; a name is letters, digits, '_', '.' and '-'",
                    )


def _worded(error: Any, definition: Any) -> Iterator[Fault]:
    """An error of the schema in our words."""
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for name in error.instance:
            if name not in known:
                hint = did_you_mean(name, known, "'imageflow recipe schema' lists what diskimage-builder knows")
                yield Fault((*path, name), "diskimage-builder knows no such key", hint)
    elif error.validator == "type":
        kind = _KINDS.get(error.validator_value, error.validator_value)
        yield Fault(path, "", wanted=kind)
    elif error.validator == "enum":
        allowed = [str(value) for value in error.validator_value]
        yield Fault(
            path,
            f"{short(error.instance)!r} is not possible",
            did_you_mean(str(error.instance), allowed, listed(allowed)),
        )
    elif error.validator == "minimum":
        yield Fault(path, f"{short(error.instance)} is too small", f"{error.validator_value} or more")
    else:
        yield Fault(path, short(error.message), "")


def _unbuildable(definition: list[dict[str, Any]]) -> Iterator[Fault]:
    """What the schema lets through and the build would fail on."""
    names = list(dict.fromkeys(image_names(definition)))
    if len(names) > 1:
        shown = ", ".join(map(short, names[:5]))
        yield Fault((), f"defines {len(names)} images: {shown}", "write one entry of 'images:' for each imagename")
    found = False
    for index, entry in enumerate(definition):
        for position, item in enumerate(entry.get("elements", [])):
            here: Path = (index, "elements", position)
            for name in item.split() or [item]:
                found = True
                if not _ELEMENT.fullmatch(name):
                    yield Fault(
                        here, f"{short(name)!r} is not an element's name", "letters, digits, '.', '_', '+' and '-'"
                    )
    if not found:
        yield Fault((), "names no elements", "add 'elements:' with at least a distribution, such as [debian-minimal]")
    types = {kind for entry in definition for kind in entry.get("types", [])}
    if types == {"docker"}:
        yield Fault((), "asks for nothing but 'docker', which leaves no file", "add a type that is a file, such as tar")
