"""diskimage-builder's image definition: checked and merged by diskimage-builder's code, with our messages."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from imageflow.recipe import elsewhere
from imageflow.recipe.problems import Path, did_you_mean, listed, short

if TYPE_CHECKING:
    from imageflow.recipe.records import ImageRecipe

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ELEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_INTERPRETED = re.compile(
    r"BASH_?ENV|ENV|BASH_[A-Z]+|SHELLOPTS|BASHOPTS|POSIXLY_CORRECT|IFS|PATH|CDPATH|PS[0-4]|PROMPT_COMMAND|GLOBIGNORE|SHELL|HOME"
    r"|LD_[A-Z_]+|DYLD_[A-Z_]+|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|MALLOC_[A-Z_]+|HOSTALIASES|RESOLV_[A-Z_]+"
    r"|PYTHON[A-Z]+|PERL5?(OPT|LIB|DB|SHELL)|PERL_[A-Z0-9_]+|RUBY(OPT|LIB)|NODE_(OPTIONS|PATH)|LUA_(INIT|PATH|CPATH)\w*|JAVA_TOOL_OPTIONS"
    r"|GIT_[A-Z0-9_]+|SSH_ASKPASS|SUDO_[A-Z_]+|XDG_CONFIG_(HOME|DIRS)|CURL_HOME|WGETRC|APT_CONFIG|TAR_OPTIONS|RSYNC_RSH"
    r"|LESS(OPEN|CLOSE)|PAGER|EDITOR|VISUAL|BROWSER|DEBOOTSTRAP_DIR|GNUPGHOME|IMAGEFLOW_\w+"
)
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
    wanted: str = ""  # for a wrong type: the expected one; the document knows what was written


def interpreted(variable: str) -> bool:
    """Whether shells, loaders, interpreters or git act on a variable, so that it would run code on the host that builds."""
    return _INTERPRETED.fullmatch(variable) is not None


def merge(definitions: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Merge the entries of each image as diskimage-builder does; the definitions must be without faults.

    Values of an environment are text or `{"secret": NAME}`.
    """
    from diskimage_builder import diskimage_builder

    whole: list[dict[str, Any]] = []  # in one call: each call checks the schema itself
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
    """A merged entry with its original name and references to secrets restored."""
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
    """What diskimage-builder would refuse or could not build in a list of entries."""
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
    """Each entry's image, as diskimage-builder reads it: an entry without a name continues the previous one."""
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
    """The elements named in it; diskimage-builder's shell splits them at blanks."""
    return [name for item in entry.get("elements", []) for name in item.split()]


def has_boot_loader(image: ImageRecipe) -> bool:
    """Whether a machine boots from this image's disk alone, without a separate kernel."""
    if image.on_machine:  # it was booted from its own disk
        return True
    named = image.dib.get("elements") or ()
    return any(name == "vm" or name.startswith("block-device-") for name in named if isinstance(name, str))


def _environment(entry: Any) -> dict[str, Any]:
    """An entry's environment, or {} for anything malformed."""
    found = entry.get("environment") if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def _veiled(definition: list[Any], references: dict[str, dict[str, str]]) -> list[Any]:
    """A copy with text instead of references to secrets, which diskimage-builder does not know."""
    entries = copy.deepcopy(definition)
    for entry in entries:
        environment = _environment(entry)
        for name, value in environment.items():
            if isinstance(value, dict):
                veil = f"\0secret {len(references)}"  # NUL: no recipe value can be equal
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
            elif interpreted(name):
                yield Fault(
                    here,
                    "is not a setting of diskimage-builder: a shell, a loader or git would act on it",
                    "remove it; what an element needs has a variable of the element's own",
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
                otherwise = "'imageflow recipe schema' lists what diskimage-builder knows"
                hint = elsewhere.hint(name) or did_you_mean(name, known, otherwise)
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
    """What the schema accepts but the build would fail on."""
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
