"""Autoinstall files of Ubuntu's subiquity: cloud-config with the key `autoinstall`."""

from __future__ import annotations

from typing import Any

import yaml

from imageflow.errors import BadInput
from imageflow.iso import Additions
from imageflow.iso.answers.problem import Problem, key_commands, marker_command
from imageflow.recipe.problems import did_you_mean, short

_KEYS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "interactive-sections": list,
    "early-commands": list,
    "locale": str,
    "refresh-installer": dict,
    "keyboard": dict,
    "source": dict,
    "network": dict,
    "proxy": (str, type(None)),
    "apt": dict,
    "storage": dict,
    "identity": dict,
    "active-directory": dict,
    "ubuntu-pro": dict,
    "ubuntu-advantage": dict,
    "ssh": dict,
    "codecs": dict,
    "drivers": dict,
    "oem": dict,
    "snaps": list,
    "debconf-selections": str,
    "packages": list,
    "kernel": dict,
    "kernel-crash-dumps": dict,
    "timezone": str,
    "updates": str,
    "shutdown": str,
    "late-commands": list,
    "error-commands": list,
    "reporting": dict,
    "user-data": dict,
    "zdevs": list,
}
_WORDS = {dict: "a mapping", list: "a list", str: "text", int: "a whole number"}


def check(text: str, _release: str | None) -> list[Problem]:
    """What subiquity refuses, and what it would ask."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = short(getattr(error, "problem", None) or error, 200)
        return [Problem(mark.line + 1 if mark else 0, f"this is not YAML: {why}")]
    except (ValueError, RecursionError) as error:
        return [Problem(0, f"this is not YAML: {short(error, 200)}")]
    if not isinstance(root, yaml.MappingNode) or not isinstance(data, dict):
        return [Problem(1, "a mapping with the key 'autoinstall' is wanted", "begin with 'autoinstall:'")]
    found: list[Problem] = []
    node = _value(root, "autoinstall")
    if node is None:
        hint = "indent all of it below 'autoinstall:'" if "version" in data else "begin with 'autoinstall:'"
        return [Problem(1, "there is no key 'autoinstall'", hint)]
    answers = data["autoinstall"]
    if not isinstance(node, yaml.MappingNode) or not isinstance(answers, dict):
        return [Problem(node.start_mark.line + 1, "'autoinstall' is not a mapping", "add 'version: 1' below it")]
    if "version" not in answers:
        found.append(Problem(node.start_mark.line + 1, "'version' is missing", "add 'version: 1'"))
    elif answers["version"] != 1 or isinstance(answers["version"], bool):
        found.append(Problem(_line(node, "version"), f"version {short(answers['version'])} is not known", "write 1"))
    seen: set[str] = set()
    for key_node, _ in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            found.append(Problem(line, f"{short(key)!r} is there twice", "keep one"))
        seen.add(key)
        if key not in _KEYS:
            found.append(Problem(line, f"there is no key {short(key)!r}", did_you_mean(key, _KEYS, "remove it")))
            continue
        wanted = _KEYS[key]
        if not isinstance(answers.get(key), wanted):
            kind = wanted[0] if isinstance(wanted, tuple) else wanted
            found.append(Problem(line, f"{key!r} is not {_WORDS[kind]}"))
    if answers.get("interactive-sections"):
        found.append(Problem(_line(node, "interactive-sections"), "the installer would stop and ask", "remove the key"))
    if "identity" not in answers and "user-data" not in answers:
        line = node.start_mark.line + 1
        found.append(Problem(line, "'identity' is missing: the installer would ask", "add identity, or user-data"))
    elif isinstance(answers.get("identity"), dict):
        for key in ("username", "password"):
            if not isinstance(answers["identity"].get(key), str):
                found.append(Problem(_line(node, "identity"), f"identity has no {key!r}", "text is wanted"))
    return found


def compose(text: str, additions: Additions) -> str:
    """The user's answers, our late commands behind theirs; a failing one ends the installation."""
    data = yaml.safe_load(text)
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
    return "#cloud-config\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _value(node: yaml.MappingNode, key: str) -> Any:
    return next((value for name, value in node.value if name.value == key), None)


def _line(node: yaml.MappingNode, key: str) -> int:
    return next((int(name.start_mark.line) + 1 for name, _ in node.value if name.value == key), 0)
