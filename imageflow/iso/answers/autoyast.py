"""AutoYaST's profiles: XML."""

from __future__ import annotations

from xml.etree import ElementTree  # documents that declare entities are refused
from xml.parsers import expat

from imageflow.errors import BadInput
from imageflow.iso import Additions
from imageflow.iso.answers.problem import Problem, key_commands, marker_command
from imageflow.recipe.problems import short

_NAMESPACE = "http://www.suse.com/1.0/yast2ns"
_CONFIG = "http://www.suse.com/1.0/configns"


class _Declared(Exception):
    """The document declares an entity."""


def check(text: str, _release: str | None) -> list[Problem]:
    """Whether it is a profile at all."""
    root: list[tuple[str, int]] = []
    parser = expat.ParserCreate(namespace_separator=" ")

    def declared(*_: object) -> None:
        raise _Declared

    def start(name: str, _attributes: object) -> None:
        if not root:
            root.append((name, parser.CurrentLineNumber))

    parser.StartElementHandler = start
    parser.EntityDeclHandler = declared  # a bare DOCTYPE is what SUSE's own examples have
    try:
        parser.Parse(text.encode(), True)
    except _Declared:
        return [Problem(parser.CurrentLineNumber, "the document declares entities", "write what they stand for")]
    except expat.ExpatError as error:
        return [Problem(error.lineno, f"this is not well-formed XML: {expat.errors.messages[error.code]}")]
    name, line = root[0]
    namespace, _, local = name.rpartition(" ")
    if local != "profile":
        return [Problem(line, f"the root element is {short(local)!r}", "AutoYaST wants 'profile'")]
    if namespace != _NAMESPACE:
        return [Problem(line, "the profile is not in AutoYaST's namespace", f'write <profile xmlns="{_NAMESPACE}" …>')]
    return []


def compose(text: str, additions: Additions) -> str:
    """The user's profile; the machine halts after the first stage, whose last script is ours."""
    if check(text, None):
        raise BadInput("the AutoYaST profile is not usable", hint="see 'imageflow recipe validate'")
    ElementTree.register_namespace("", _NAMESPACE)
    ElementTree.register_namespace("config", _CONFIG)
    root = ElementTree.fromstring(text.encode())  # noqa: S314  # checked above
    mode = _child(_child(root, "general"), "mode")
    for name, value in (("halt", "true"), ("final_halt", "false"), ("final_reboot", "false"), ("confirm", "false")):
        _set(mode, name, value)
    scripts = _child(_child(root, "scripts"), "chroot-scripts")
    scripts.set(f"{{{_CONFIG}}}type", "list")
    script = ElementTree.SubElement(scripts, f"{{{_NAMESPACE}}}script")
    ElementTree.SubElement(script, f"{{{_NAMESPACE}}}filename").text = "imageflow.sh"
    _set(script, "chrooted", "true")
    commands = ["#!/bin/sh", "set -e", *key_commands(additions), "systemctl enable sshd", marker_command(additions)]
    ElementTree.SubElement(script, f"{{{_NAMESPACE}}}source").text = "\n".join(commands) + "\n"
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _child(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    found = parent.find(f"{{{_NAMESPACE}}}{name}")
    return found if found is not None else ElementTree.SubElement(parent, f"{{{_NAMESPACE}}}{name}")


def _set(parent: ElementTree.Element, name: str, value: str) -> None:
    child = _child(parent, name)
    child.text = value
    child.set(f"{{{_CONFIG}}}type", "boolean")
