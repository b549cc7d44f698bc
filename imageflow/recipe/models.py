"""What a user may write in a recipe, as pydantic models; diskimage-builder's own part is in `definition`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from imageflow.recipe.definition import SECRET_NAME
from imageflow.recipe.problems import did_you_mean

Output = Literal["qcow2", "raw", "tar", "tgz", "squashfs", "vhd", "aci", "kernel"]

_MONTH = 30 * 86400.0  # seconds
_CRYPT = re.compile(r"\$[0-9a-z]{1,3}\$[./A-Za-z0-9=,$+-]{13,}")  # crypt(5): $id$salt$hash


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """A value error whose way out is said separately."""
    return PydanticCustomError("imageflow", "{message}", {"message": message, "hint": hint})


def text(pattern: str, message: str, hint: str = "") -> Callable[[str], str]:
    """A check that a text is of this form."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise wrong(f"{value!r} {message}" if len(value) <= 60 else f"this {message}", hint)
        return value

    return check


def _form(pattern: str, message: str, hint: str = "") -> Any:
    return AfterValidator(text(pattern, message, hint))


NAME_HINT = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Name = Annotated[str, _form(NAME, "is not a usable name", NAME_HINT)]
Package = Annotated[
    str, _form(r"@?[A-Za-z0-9][A-Za-z0-9+._:=~@/*^-]*", "is not a package name", "a name such as nginx, or nginx=1.22*")
]
Requirement = Annotated[
    str,
    _form(
        r"[A-Za-z0-9][^\n\r]*",
        "is not a requirement that pip takes",
        "such as flask or flask==3.1.*; options are not allowed",
    ),
]
Account = Annotated[
    str, _form(r"[a-z_][a-z0-9_-]{0,31}", "is not an account name", "small letters, digits, '_' and '-', at most 32")
]
Owner = Annotated[
    str,
    _form(
        r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?",
        "is not an owner",
        "user or user:group, such as root:root",
    ),
]
Mode = Annotated[str, _form(r"0?[0-7]{3,4}", "is not a file mode", 'four octal digits in quotes, such as "0644"')]
Unit = Annotated[
    str, _form(r"[A-Za-z0-9][A-Za-z0-9@._:\\-]*", "is not the name of a service", "such as nginx or ssh.service")
]
Line = Annotated[str, _form(r"[^\n\r]*\S[^\n\r]*", "is not one line of text")]


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
    """`{secret: NAME}` or a crypt(5) hash; a plain password would be stored with the build."""
    if isinstance(value, dict):
        name = value.get("secret")
        if set(value) == {"secret"} and isinstance(name, str) and SECRET_NAME.fullmatch(name):
            return {"secret": name}
    elif isinstance(value, str) and _CRYPT.fullmatch(value):
        return value
    raise wrong(
        "is neither a secret's reference nor a crypt hash", "write {secret: NAME}, or the output of 'openssl passwd -6'"
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


class Strict(BaseModel):
    """No unknown keys, no conversions: what is written is what is meant."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class File(Strict):
    """A file to put into the image."""

    source: Annotated[str | None, Field(description="A file in the recipe's folder.")] = None
    content: Annotated[str | None, Field(description="The content itself.")] = None
    path: Annotated[Place, Field(description="Where it goes in the image.")]
    mode: Mode = "0644"
    owner: Owner = "root:root"

    @model_validator(mode="after")
    def _one(self) -> File:
        if (self.source is None) == (self.content is None):
            raise wrong("needs one of 'source' and 'content'", "source: FILE beside the recipe, or content: TEXT")
        return self


class User(Strict):
    """An account to create."""

    name: Account
    uid: Annotated[int, Field(ge=0, le=2**31)] | None = None
    groups: list[Account] = []
    shell: Place | None = None
    home: Place | None = None
    password: Password | None = None
    sudo: Annotated[bool, Field(description="May become root without a password.")] = False
    authorized_keys: Annotated[list[Line], Field(description="SSH public keys.")] = []


class Services(Strict):
    """Services that start at boot, or don't."""

    enable: list[Unit] = []
    disable: list[Unit] = []

    @model_validator(mode="after")
    def _clear(self) -> Services:
        if not self.enable and not self.disable:
            raise wrong("names no service", "enable: [NAME] or disable: [NAME]")
        if both := sorted(set(self.enable) & set(self.disable)):
            raise wrong(f"enables and disables {both[0]!r}", "do one of it")
        return self


class ConfigureStep(Strict):
    """One entry of `configure`: exactly one of these."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    packages: Annotated[list[Package], Field(min_length=1)] | None = None
    pip: Annotated[list[Requirement], Field(min_length=1)] | None = None
    files: Annotated[list[File], Field(min_length=1)] | None = None
    users: Annotated[list[User], Field(min_length=1)] | None = None
    services: Services | None = None

    @model_validator(mode="after")
    def _one(self) -> ConfigureStep:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise wrong("is not one step", "one of packages, pip, files, users, services in each entry of the list")
        return self


class Publish(Strict):
    """How the image is published."""

    name: Annotated[Name | None, Field(description="The image's name by default.")] = None
    keep: Annotated[int | None, Field(ge=1, le=100_000, description="Versions that stay; all by default.")] = None
    properties: dict[str, str] = {}


class Timeout(Strict):
    """Limits in seconds; the configuration's by default."""

    build: Annotated[float, Field(gt=0, le=_MONTH)] | None = None
    step: Annotated[float, Field(gt=0, le=_MONTH)] | None = None


class Image(Strict):
    """An image and how it is built."""

    name: Name
    method: Literal["dib"]
    dib: Annotated[Any, Field(description="diskimage-builder's own image definition.")]
    configure: list[ConfigureStep] = []
    outputs: Annotated[list[Output], Field(min_length=1)] | None = None
    publish: Publish = Publish()
    on_failure: Literal["pause", "revert"] = "pause"
    timeout: Timeout = Timeout()

    @field_validator("outputs")
    @classmethod
    def _once(cls, value: list[Output] | None) -> list[Output] | None:
        if value is not None and len(set(value)) != len(value):
            raise wrong("names an output twice", "name each once")
        return value


def known_keys(path: tuple[str | int, ...]) -> list[str]:
    """The keys that an image may have at this path, for 'did you mean'."""
    model: Any = Image
    for part in path:
        if isinstance(part, int):
            continue
        model = {
            "publish": Publish,
            "timeout": Timeout,
            "configure": ConfigureStep,
            "files": File,
            "users": User,
            "services": Services,
        }.get(part, model)
    return list(model.model_fields)


def mean(path: tuple[str | int, ...], word: str) -> str:
    """The hint for an unknown key at this path."""
    known = known_keys(path)
    return did_you_mean(word, known, f"known keys: {', '.join(known)}")
