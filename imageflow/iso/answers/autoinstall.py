"""Autoinstall files of Ubuntu's subiquity: cloud-config with the key `autoinstall`."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from typing import Any

import yaml

from imageflow.errors import BadInput
from imageflow.iso import Additions
from imageflow.iso.answers import autoinstall_schema as schema
from imageflow.iso.answers.problem import AnswerProblem, key_commands, marker_command, remark
from imageflow.recipe import parsing
from imageflow.recipe.problems import did_you_mean, listed, short

_JINJA = re.compile(r"##\s*template:\s*jinja\s*$", re.MULTILINE)  # cloud-init fills in such a file before it reads it
# keys of autoinstall that mean nothing to cloud-init beside 'autoinstall'
_OURS_ONLY = (
    "identity", "storage", "early-commands", "late-commands", "error-commands", "interactive-sections", "version",
    "refresh-installer", "source", "updates", "shutdown", "drivers", "codecs", "oem", "user-data",
)  # fmt: skip
_QUOTE = "put such text between quotes, or write it below '- |'"


def check(text: str, _release: str | None) -> list[AnswerProblem]:
    """What subiquity would refuse or ask, and what it ignores."""
    try:
        data = parsing.load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except parsing.TooMuch as error:
        return [AnswerProblem(error.line, error.message, error.hint)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = short(getattr(error, "problem", None) or error, 200)
        hint = "only {{ … }} inside of quoted text can be checked" if _JINJA.match(text) else _QUOTE
        return [AnswerProblem(mark.line + 1 if mark else 0, f"this is not YAML: {why}", hint)]
    if not isinstance(root, yaml.MappingNode) or not isinstance(data, dict):
        return [AnswerProblem(1, "expected a mapping with the key 'autoinstall'", "begin with 'autoinstall:'")]
    found: list[AnswerProblem] = []
    node = schema.value(root, "autoinstall")
    if node is None and "version" in data:
        found.append(remark(1, "there is no key 'autoinstall'", "all of it is put below one on the medium"))
        node, answers = root, data
    elif node is None:
        return [AnswerProblem(1, "there is no key 'autoinstall'", "begin with 'autoinstall:'")]
    else:
        answers = data["autoinstall"]
        found += _beside(root)
    if not isinstance(node, yaml.MappingNode) or not isinstance(answers, dict):
        return [AnswerProblem(node.start_mark.line + 1, "'autoinstall' is not a mapping", "add 'version: 1' below it")]
    return [*found, *_keys(node), *schema.problems(answers, node), *_asked(answers, node), *_places(answers, node)]


def _beside(root: yaml.MappingNode) -> Iterator[AnswerProblem]:
    for key, _ in root.value:
        if key.value in _OURS_ONLY:
            what = f"{key.value!r} beside 'autoinstall' is not read by the installer"
            yield remark(key.start_mark.line + 1, what, "indent it below 'autoinstall:'")


def _keys(node: yaml.MappingNode) -> Iterator[AnswerProblem]:
    """Keys that subiquity reads over."""
    seen: set[str] = set()
    for key_node, value in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            yield remark(line, f"{short(key)!r} is there twice", "the last one counts: keep one")
        elif key != "<<" and key not in schema.known_keys():
            hint = did_you_mean(key, schema.known_keys(), "remove it")
            yield remark(line, f"there is no key {short(key)!r}: the installer ignores it", hint)
        seen.add(key)
        known = schema.known_below(key)
        for below, _ in value.value if known and isinstance(value, yaml.MappingNode) else ():
            if below.value not in known and below.value != "<<":
                what = f"{key} has no key {short(below.value)!r}: the installer ignores it"
                yield remark(
                    below.start_mark.line + 1, what, did_you_mean(str(below.value), known, listed(sorted(known)))
                )


def _asked(answers: dict[str, Any], node: yaml.MappingNode) -> Iterator[AnswerProblem]:
    """What would wait for a person."""
    if answers.get("interactive-sections"):
        line = schema.line(node, ("interactive-sections",))
        yield AnswerProblem(line, "the installer would stop and ask", "remove the key")
    if "identity" not in answers and "user-data" not in answers:
        what = "'identity' is missing: the installer would ask"
        yield AnswerProblem(node.start_mark.line + 1, what, "add identity, or user-data")


def _places(answers: dict[str, Any], node: yaml.MappingNode) -> Iterator[AnswerProblem]:
    """A time zone that there is not."""
    zone = answers.get("timezone")
    if isinstance(zone, str) and zone not in ("", "geoip") and zone not in zoneinfo.available_timezones():
        hint = did_you_mean(zone, zoneinfo.available_timezones(), "such as Europe/Berlin or UTC")
        yield AnswerProblem(schema.line(node, ("timezone",)), f"there is no time zone {short(zone)!r}", hint)


def compose(text: str, additions: Additions, _release: str | None) -> str:
    """The user's answers, with our late commands after theirs; a failing command ends the installation."""
    try:
        data = parsing.load(text)
    except yaml.YAMLError:
        data = None
    if isinstance(data, dict) and "autoinstall" not in data and "version" in data:
        data = {"autoinstall": data}
    answers: Any = data.get("autoinstall") if isinstance(data, dict) else None
    if not isinstance(answers, dict) or not isinstance(answers.get("late-commands", []), list):
        raise BadInput("the autoinstall file is not usable", hint="see 'imageflow recipe validate'")
    console = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console={additions.console}"'
    answers["late-commands"] = [
        *answers.get("late-commands", []),
        *key_commands(additions, "/target"),
        f"mkdir -p /target/etc/default/grub.d && echo '{console}' > /target/etc/default/grub.d/90-console.cfg",
        "curtin in-target -- update-grub",
        marker_command(additions),
    ]
    answers["shutdown"] = "poweroff"
    head = "## template: jinja\n" if _JINJA.match(text) else ""
    return f"{head}#cloud-config\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
