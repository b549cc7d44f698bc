"""The elements of an AutoYaST profile with their lines, as YaST's own XML parser understands them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from imageflow.iso.answers.problem import AnswerProblem
from imageflow.recipe.problems import listed, short

NAMESPACE = "http://www.suse.com/1.0/yast2ns"
CONFIG = "http://www.suse.com/1.0/configns"
TYPES = (f"{{{CONFIG}}}type", "t", "type")  # an element's type: config:type, and since SLE 15 SP3 t or type, too
_DEEPEST = 60  # levels of elements
_KINDS = ("string", "disksize", "symbol", "integer", "boolean", "list", "map")


@dataclass(slots=True)
class Element:
    """An element of the profile."""

    namespace: str
    name: str
    line: int
    types: list[str]  # that it says it has
    above: str  # name of the element around it
    text: str = ""  # its own, not that of elements in it
    elements: list[Element] = field(default_factory=list)

    def below(self) -> Iterator[Element]:
        """All elements in it."""
        for element in self.elements:
            yield element
            yield from element.below()

    def number(self, name: str) -> int:
        """The number in its element `name`; 0 without one."""
        found = next((element.text.strip() for element in self.elements if element.name == name), "")
        return int(found) if re.fullmatch(r"\d{1,9}", found) else 0


class _Refused(Exception):
    """What no profile has: an entity that it declares, elements nested without end."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def bound(text: str) -> str:
    """The profile with the prefix of types declared, if it uses it without: YaST reads on, and loses all types."""
    if "config:type" not in text or "xmlns:config" in text:
        return text
    return re.sub(r"<((?:\w+:)?profile)(?=[\s>])", rf'<\1 xmlns:config="{CONFIG}"', text, count=1)


def parse(text: str) -> tuple[Element | None, list[AnswerProblem]]:
    """The root element, and what YaST refuses below it; without a root when this is not well-formed XML."""
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    found: list[AnswerProblem] = []
    open_ones: list[Element] = []
    roots: list[Element] = []

    def declared(*_: object) -> None:
        raise _Refused("the document declares entities", "write what they stand for")

    def start(name: str, attributes: dict[str, str]) -> None:
        space, _, local = name.rpartition(" ")
        said = {key.rpartition(" ")[2]: kind for key, kind in attributes.items()}  # YaST takes namespaces out first
        types = [said[key] for key in ("t", "type") if key in said]
        above = open_ones[-1].name if open_ones else ""
        element = Element(space, local, parser.CurrentLineNumber, types, above)
        (open_ones[-1].elements if open_ones else roots).append(element)
        open_ones.append(element)
        if len(open_ones) > _DEEPEST:
            raise _Refused(f"elements are nested deeper than {_DEEPEST} levels", "that deep is never needed")

    def characters(data: str) -> None:
        open_ones[-1].text += data

    def end(_name: str) -> None:
        element = open_ones.pop()
        if open_ones:  # the root has no type
            found.extend(_refused(element))

    parser.buffer_text = True  # one call for each text, not for each line
    parser.buffer_size = 1 << 16
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = declared  # a bare DOCTYPE is fine: SUSE's own examples have one
    try:
        parser.Parse(text.encode(), True)
    except _Refused as error:
        return None, [AnswerProblem(parser.CurrentLineNumber, error.message, error.hint)]
    except expat.ExpatError as error:
        why = f"this is not well-formed XML: {expat.errors.messages[error.code]}"
        return None, [AnswerProblem(error.lineno, why, _way_out(text, error.lineno))]
    return roots[0], found


def _way_out(text: str, line: int) -> str:
    """A hint for what is often wrong."""
    wrong = (text.split("\n")[line - 1 : line] or [""])[0]
    if "<%" in wrong:
        return "ERB is not run on the medium: write what it gives"
    return (
        "write & as &amp; and < as &lt;, or a script in <![CDATA[…]]>"
        if re.search(r"&(?!\w+;|#)|<[^\w/!?]", wrong)
        else ""
    )


def _refused(element: Element) -> Iterator[AnswerProblem]:
    """What YaST raises an error for, which ends the installation at its start."""
    text, line, name = element.text.strip(), element.line, short(element.name)
    if len(element.types) > 1:
        yield AnswerProblem(line, f"<{name}> says its type twice", "keep one of t and config:type")
        return
    if not element.types:
        if text and element.elements:
            yield AnswerProblem(line, f"<{name}> has both text and elements", "keep one of them")
        return
    (kind,) = element.types
    if kind not in _KINDS:
        yield AnswerProblem(line, f"<{name}> has the unknown type {short(kind)!r}", listed(_KINDS))
    elif kind == "boolean" and text not in ("true", "false"):
        yield AnswerProblem(line, f"<{name}>: {short(text)!r} is not a boolean", "write true or false")
    elif kind == "integer" and not re.search(r"-?\d+", text):
        yield AnswerProblem(line, f"<{name}>: {short(text)!r} is not a whole number", "write one, or leave it out")
    elif kind == "symbol" and not text:
        yield AnswerProblem(line, f"<{name}> is an empty symbol", "write one, or leave it out")
