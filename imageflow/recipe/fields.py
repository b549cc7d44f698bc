"""The types of recipe values, each with its own error messages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from imageflow.recipe.definition import SECRET_NAME

MONTH = 30 * 86400.0  # seconds
_CRYPT = re.compile(r"\$[0-9a-z]{1,3}\$[./A-Za-z0-9=,$+-]{13,}")  # crypt(5): $id$salt$hash


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """A value error with a separate hint."""
    return PydanticCustomError("imageflow", "{message}", {"message": message, "hint": hint})


def text(pattern: str, message: str, hint: str = "") -> Callable[[str], str]:
    """A check that a text matches the pattern."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise wrong(f"{value!r} {message}" if len(value) <= 60 else f"this {message}", hint)
        return value

    return check


def form(pattern: str, message: str, hint: str = "") -> Any:
    """The same as an annotation."""
    return AfterValidator(text(pattern, message, hint))


NAME_HINT = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Name = Annotated[str, form(NAME, "is not a usable name", NAME_HINT)]
# one word: perl(Foo::Bar), libz.so.1()(64bit), php-*, [a-z]*, {a,b}, ?and(?name(a),~i), /usr/bin/vi, @nodejs:20/minimal
_WORD = (
    r"(?:@\^?|[/?~_])?[A-Za-z0-9]"
    r"(?:[A-Za-z0-9+._:=~@/*?^!$|%<>-]|\[[^\[\]\s]+\]|\{[^{}\s]+\}|\((?:[^()\s]|\([^()\s]*\))*\))*"
)
_VERSIONED = rf"{_WORD} (?:[<>]=?|=) [A-Za-z0-9][A-Za-z0-9+._:~^-]*"  # of dnf: nginx >= 1.20
_GROUP = r"@\^?[A-Za-z0-9]+(?:[ ._&-]+[A-Za-z0-9]+)+"  # of dnf: @Development Tools
_PART = r"(?:[^()\r\n]|\([^()\r\n]{0,100}\)){1,200}"  # bounded: long texts would take long to refuse
_RICH = rf"\({_PART} (?:and|or|if|unless|with|without) {_PART}\)"
Package = Annotated[
    str,
    form(
        rf"{_WORD}|{_VERSIONED}|{_GROUP}|{_RICH}",
        "is not a package name",
        "a name such as nginx, or nginx=1.22*",
    ),
]
ImagePackage = Annotated[
    str, form(_WORD, "is not a package name", "a name such as nginx, or nginx=1.22*")
]  # for diskimage-builder, which splits at spaces
Requirement = Annotated[
    str,
    form(
        r"[A-Za-z0-9][^\n\r]*",
        "is not a requirement that pip takes",
        "such as flask or flask==3.1.*; options are not allowed",
    ),
]
Account = Annotated[
    str, form(r"[a-z_][a-z0-9_-]{0,31}", "is not an account name", "small letters, digits, '_' and '-', at most 32")
]
Owner = Annotated[
    str,
    form(
        r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?",
        "is not an owner",
        "user or user:group, such as root:root",
    ),
]
Mode = Annotated[str, form(r"0?[0-7]{3,4}", "is not a file mode", 'four octal digits in quotes, such as "0644"')]
Unit = Annotated[
    str, form(r"[A-Za-z0-9][A-Za-z0-9@._:\\-]*", "is not the name of a service", "such as nginx or ssh.service")
]
Line = Annotated[
    str,
    form(
        r"[^\n\r]*\S[^\n\r]*",
        "is not one line of text",
        "without a line end; in a list, each line is an entry of its own",
    ),
]


def _place(value: str) -> str:
    """An absolute path of a file in the image."""
    if not value.startswith("/"):
        raise wrong("is not an absolute path", "begin it with '/'")
    if ".." in value.split("/"):
        raise wrong("contains '..'", "write the path without it")
    if value.endswith("/") or "\n" in value:
        raise wrong("is not the path of a file", "name the file too, not only its folder")
    return posixpath.normpath("/" + value.lstrip("/"))


Place = Annotated[str, AfterValidator(_place)]


def _password(value: Any) -> Any:
    """`{secret: NAME}` or a crypt(5) hash: a plain password would be stored with the build."""
    if isinstance(value, dict):
        name = value.get("secret")
        if set(value) == {"secret"} and isinstance(name, str) and SECRET_NAME.fullmatch(name):
            return {"secret": name}
    elif isinstance(value, str) and _CRYPT.fullmatch(value):
        return value
    raise wrong(
        "is neither a reference to a secret nor a crypt hash",
        "write {secret: NAME}, or the output of 'openssl passwd -6'",
    )


REFERENCE = {
    "type": "object",
    "properties": {"secret": {"type": "string", "pattern": f"^{SECRET_NAME.pattern}$"}},
    "required": ["secret"],
    "additionalProperties": False,
}
Password = Annotated[
    Any,
    PlainValidator(_password),
    WithJsonSchema({"anyOf": [REFERENCE, {"type": "string", "pattern": f"^{_CRYPT.pattern}$"}]}),
]


def _environment_value(value: Any) -> Any:
    if isinstance(value, dict):
        name = value.get("secret")
        if set(value) == {"secret"} and isinstance(name, str) and SECRET_NAME.fullmatch(name):
            return {"secret": name}
        raise wrong("is not a reference to a secret", "{secret: NAME}; a name is letters, digits, '_', '.' and '-'")
    if not isinstance(value, str):
        raise wrong("is not text", "write it in quotes")
    return value


EnvironmentValue = Annotated[
    Any, PlainValidator(_environment_value), WithJsonSchema({"anyOf": [{"type": "string"}, REFERENCE]})
]
Sha256 = Annotated[str, form(r"[0-9a-f]{64}", "is not a SHA-256", "64 hexadecimal digits, small letters")]


class Strict(BaseModel):
    """No unknown keys, no conversions: what is written is what is meant."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
