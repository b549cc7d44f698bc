"""AutoYaST's profiles: XML."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from xml.etree import ElementTree  # safe: documents that declare entities are refused

from imageflow.errors import BadInput
from imageflow.iso import Additions
from imageflow.iso.answers import profile
from imageflow.iso.answers.problem import AnswerProblem, key_commands, marker_command, remark
from imageflow.iso.answers.profile import CONFIG, NAMESPACE
from imageflow.recipe.problems import short

_DECLARATION = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_TRUE = "true"


def declared_encoding(data: bytes) -> str:
    """The encoding that the document declares; UTF-8 without one, or with one that Python does not know."""
    found = _DECLARATION.match(data[:200])
    try:
        return codecs.lookup(found[1].decode()).name if found else "utf-8"
    except LookupError:
        return "utf-8"


def check(text: str, _release: str | None) -> list[AnswerProblem]:
    """What YaST's XML parser refuses, and what AutoYaST would ask."""
    root, found = profile.parse(profile.bound(text))
    if root is None:
        return found
    if root.name != "profile":
        return [AnswerProblem(root.line, f"the root element is {short(root.name)!r}", "AutoYaST wants 'profile'")]
    if root.namespace != NAMESPACE:
        hint = f'it is added on the medium; older releases of YaST need it: <profile xmlns="{NAMESPACE}" …>'
        found.append(remark(root.line, "the profile is not in AutoYaST's namespace", hint))
    if profile.bound(text) != text:
        hint = f'it is added on the medium, as YaST would read every value as text: xmlns:config="{CONFIG}"'
        found.append(remark(root.line, "the prefix 'config' is not declared in <profile>", hint))
    return found + list(_asked(root))


def _asked(root: profile.Element) -> Iterator[AnswerProblem]:
    """What waits for a person, and what is fetched during the installation."""
    for element in root.below():
        if element.name == "ask" and element.above == "ask-list" and not element.number("timeout"):
            yield AnswerProblem(element.line, "this question waits for an answer for ever", "give it a timeout")
        elif element.name == "semi-automatic" and element.elements:
            yield AnswerProblem(element.line, "'semi-automatic' makes the installer stop and ask", "remove it")
        elif element.name == "location" and element.above == "script" and "://" in element.text:
            what = f"{short(element.text)} is fetched during the installation, and not pinned"
            yield remark(element.line, what, "a change of it makes no new build; write the script into <source>")


def compose(text: str, additions: Additions, _release: str | None) -> str:
    """The user's profile with our script as the last of the first stage, after which the machine halts."""
    if any(not problem.remark for problem in check(text, None)):
        raise BadInput("the AutoYaST profile is not usable", hint="see 'imageflow recipe validate'")
    ElementTree.register_namespace("", NAMESPACE)
    ElementTree.register_namespace("config", CONFIG)
    root = ElementTree.fromstring(profile.bound(text).encode(), ElementTree.XMLParser(encoding="utf-8"))  # noqa: S314  # checked above
    own = root.tag.rpartition("}")[0].lstrip("{")
    for element in root.iter():
        space, _, name = element.tag.rpartition("}")
        if space.lstrip("{") in ("", own):
            element.tag = f"{{{NAMESPACE}}}{name}"
    notation = _notation(root)
    mode = _child(_child(root, "general"), "mode")
    for name, value in (("halt", _TRUE), ("final_halt", "false"), ("final_reboot", "false"), ("confirm", "false")):
        _set(mode, name, value, notation)
    scripts = _child(_child(root, "scripts"), "chroot-scripts")
    _typed(scripts, "list", notation)
    script = ElementTree.SubElement(scripts, f"{{{NAMESPACE}}}script")
    ElementTree.SubElement(script, f"{{{NAMESPACE}}}filename").text = "imageflow.sh"
    _set(script, "chrooted", _TRUE, notation)
    commands = ["#!/bin/sh", "set -e", *key_commands(additions), "systemctl enable sshd", marker_command(additions)]
    ElementTree.SubElement(script, f"{{{NAMESPACE}}}source").text = "\n".join(commands) + "\n"
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _child(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    found = parent.findall(f"{{{NAMESPACE}}}{name}")  # of two, YaST takes the last
    return found[-1] if found else ElementTree.SubElement(parent, f"{{{NAMESPACE}}}{name}")


def _set(parent: ElementTree.Element, name: str, value: str, notation: str) -> None:
    child = _child(parent, name)
    child.text = value
    _typed(child, "boolean", notation)


def _notation(root: ElementTree.Element) -> str:
    """The attribute by which this profile says a value's type: the one that it uses most."""
    counts = {name: sum(name in element.attrib for element in root.iter()) for name in profile.TYPES}
    return max(profile.TYPES, key=lambda name: counts[name])


def _typed(element: ElementTree.Element, kind: str, notation: str) -> None:
    """Say an element's type once: YaST refuses one that has two of them."""
    used = next((name for name in profile.TYPES if name in element.attrib), notation)
    element.set(used, kind)
