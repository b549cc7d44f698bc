"""What a user may write in a recipe, as pydantic models; diskimage-builder's own part is in `definition`."""

from __future__ import annotations

import posixpath
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from imageflow.recipe.definition import SECRET_NAME
from imageflow.recipe.inputs import ANSWERS
from imageflow.recipe.problems import did_you_mean, listed

Output = Literal["qcow2", "raw", "tar", "tgz", "squashfs", "vhd", "aci", "kernel"]
DiskOutput = Literal["qcow2", "raw", "vhd"]

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
Sha256 = Annotated[str, _form(r"[0-9a-f]{64}", "is not a SHA-256", "64 hexadecimal digits, small letters")]


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


class Script(Strict):
    """A script: its text, or a file in the recipe's folder."""

    run: Annotated[
        str | None, Field(min_length=1, description="The script itself; run by sh unless it begins with '#!'.")
    ] = None
    source: Annotated[str | None, Field(description="A file in the recipe's folder.")] = None
    environment: Annotated[dict[str, EnvironmentValue], Field(description="Text, or {secret: NAME}.")] = {}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core_schema)]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"run": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Script:
        if (self.run is None) == (self.source is None):
            raise wrong("needs one of 'run' and 'source'", "run: COMMANDS, or source: FILE beside the recipe")
        return self

    @field_validator("environment")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise wrong(
                    f"{name[:60]!r} is not a variable's name", "letters, digits and '_', not beginning with a digit"
                )
        return value


class Ansible(Strict):
    """A playbook, run on this host over the build's key."""

    playbook: Annotated[str, Field(description="A file in the recipe's folder.")]
    with_: Annotated[
        list[str], Field(alias="with", description="Files and folders that it uses: nothing else is seen.")
    ] = []
    variables: Annotated[dict[str, Any], Field(description="Extra variables; a value may be {secret: NAME}.")] = {}
    tags: list[Line] = []


class Puppet(Strict):
    """A manifest, applied in the machine by `puppet apply`."""

    manifest: Annotated[str, Field(description="A file in the recipe's folder.")]
    modules: Annotated[list[str], Field(description="Folders with modules.")] = []


class Salt(Strict):
    """States, applied in the machine by `salt-call --local`."""

    states: Annotated[str, Field(description="A folder in the recipe's folder: the file root.")]
    apply: Annotated[Line | None, Field(description="Which state; the highstate by default.")] = None
    pillar: dict[str, Any] = {}


class Chef(Strict):
    """Cookbooks, run in the machine by `chef-client --local-mode`."""

    cookbooks: Annotated[str, Field(description="A folder in the recipe's folder.")]
    run_list: Annotated[list[Line], Field(min_length=1)]


class ConfigureStep(Strict):
    """One entry of `configure` of a static image: exactly one of these."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    packages: Annotated[list[Package], Field(min_length=1)] | None = None
    pip: Annotated[list[Requirement], Field(min_length=1)] | None = None
    files: Annotated[list[File], Field(min_length=1)] | None = None
    users: Annotated[list[User], Field(min_length=1)] | None = None
    services: Services | None = None

    @model_validator(mode="after")
    def _one(self) -> ConfigureStep:
        kinds = self.model_fields_set - {"timeout", "checkpoint"}
        if len(kinds) != 1 or getattr(self, next(iter(kinds))) is None:
            known = ", ".join(name for name in type(self).model_fields if name not in ("timeout", "checkpoint"))
            raise wrong("is not one step", f"one of {known} in each entry of the list")
        return self


class MachineFile(File):
    """A file to put into a machine."""

    template: Annotated[bool, Field(description="Fill in {{ variables }} (Jinja2).")] = False
    variables: dict[str, Any] = {}

    @model_validator(mode="after")
    def _used(self) -> MachineFile:
        if self.variables and not self.template:
            raise wrong("has variables and is no template", "add 'template: true'")
        return self


class MachineStep(ConfigureStep):
    """One entry of `configure` of a booted machine: exactly one of these, and its own limits."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    files: Annotated[list[MachineFile], Field(min_length=1)] | None = None  # type: ignore[assignment]
    shell: Script | None = None
    ansible: Ansible | None = None
    puppet: Puppet | None = None
    salt: Salt | None = None
    chef: Chef | None = None
    timeout: Annotated[float, Field(gt=0, le=_MONTH, description="Seconds.")] | None = None
    checkpoint: Annotated[bool, Field(description="Keep a layer after it, where that is not free.")] = False


class Verification(Strict):
    """One check inside a throw-away boot of the finished image; it fails when the script does."""

    shell: Script
    timeout: Annotated[float, Field(gt=0, le=_MONTH, description="Seconds.")] = 300.0


class Publish(Strict):
    """How the image is published."""

    name: Annotated[Name | None, Field(description="The image's name by default.")] = None
    keep: Annotated[int | None, Field(ge=1, le=100_000, description="Versions that stay; all by default.")] = None
    properties: dict[str, str] = {}


class Timeout(Strict):
    """Limits in seconds; the configuration's by default."""

    build: Annotated[float, Field(gt=0, le=_MONTH)] | None = None
    step: Annotated[float, Field(gt=0, le=_MONTH)] | None = None


class Machine(Strict):
    """The machine that an image is made on."""

    vcpus: Annotated[int, Field(ge=1, le=256)] = 2
    memory: Annotated[int, Field(ge=32, le=4 << 20, description="MiB.")] = 1024
    disk: Annotated[int | None, Field(ge=1, le=65536, description="GiB; the base's own size by default.")] = None
    firmware: Literal["bios", "uefi"] = "bios"
    user: Annotated[Account, Field(description="Whom to log in as; another than root needs sudo.")] = "root"


class Base(Strict):
    """What a machine's disk starts as: exactly one of image, file and url."""

    image: Annotated[Name | None, Field(description="Another image of imageflow: its newest version.")] = None
    file: Annotated[str | None, Field(description="A qcow2 or raw file: absolute, or relative to the recipe.")] = None
    url: Annotated[str | None, Field(description="Where to download it.")] = None
    sha256: Annotated[Sha256 | None, Field(description="What it must be; needed with a url.")] = None

    @model_validator(mode="after")
    def _one(self) -> Base:
        _one_source(self, ("image", "file", "url"))
        if self.image is not None and self.sha256 is not None:
            raise wrong("has a sha256 for an image", "remove it: images are pinned by their digests anyway")
        return self


class Iso(Strict):
    """An installer ISO: exactly one of file and url."""

    file: Annotated[str | None, Field(description="Absolute, or relative to the recipe.")] = None
    url: Annotated[str | None, Field(description="Where to download it.")] = None
    sha256: Annotated[Sha256 | None, Field(description="What it must be; needed with a url.")] = None

    @model_validator(mode="after")
    def _one(self) -> Iso:
        _one_source(self, ("file", "url"))
        return self


def _one_source(model: Base | Iso, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise wrong(f"needs one of {', '.join(names)}", f"{names[0]}: …")
    if model.url is not None:
        if not re.match(r"(https?|file)://[^\s]+\Z", model.url):
            raise wrong("has a url that can't be fetched", "http://, https:// or file://")
        if model.sha256 is None:
            raise wrong("has a url without its sha256", "add 'sha256:', so that the same recipe means the same bytes")


class AnswerFile(Strict):
    """The answer file of an unattended installation: exactly one of the first four."""

    preseed: str | None = None
    kickstart: str | None = None
    autoinstall: str | None = None
    autoyast: str | None = None
    release: Annotated[Line | None, Field(description="kickstart: pykickstart's version name, such as RHEL9.")] = None
    arguments: Annotated[Line | None, Field(description="More arguments for the installer's kernel.")] = None

    @property
    def kind(self) -> str:
        return next(name for name in ANSWERS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one(self) -> AnswerFile:
        given = [name for name in ANSWERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong("needs one answer file", f"one of {', '.join(ANSWERS)}: FILE")
        if self.release is not None and given != ["kickstart"]:
            raise wrong("has a release without a kickstart", "remove 'release:'")
        return self


class Image(Strict):
    """What every image says, however it is built."""

    name: Name
    method: Literal["dib", "boot", "install"]
    publish: Publish = Publish()
    on_failure: Literal["pause", "revert"] = "pause"
    timeout: Timeout = Timeout()

    @field_validator("outputs", check_fields=False)
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise wrong("names an output twice", "name each once")
        return value


class DibImage(Image):
    """An image that diskimage-builder puts together."""

    method: Literal["dib"]
    dib: Annotated[Any, Field(description="diskimage-builder's own image definition.")]
    configure: list[ConfigureStep] = []
    outputs: Annotated[list[Output], Field(min_length=1)] | None = None


class _OnMachine(Image):
    machine: Machine = Machine()
    configure: list[MachineStep] = []
    verify: list[Verification] = []
    outputs: Annotated[list[DiskOutput], Field(min_length=1)] = ["qcow2"]


class BootImage(_OnMachine):
    """An image made by booting another one and configuring it."""

    method: Literal["boot"]
    base: Base


class InstallImage(_OnMachine):
    """An image made by an unattended installation from an ISO."""

    method: Literal["install"]
    iso: Iso
    answers: AnswerFile

    @model_validator(mode="after")
    def _disk(self) -> InstallImage:
        if self.machine.disk is None:
            raise wrong("does not say how large the disk is", "machine: {disk: GIB}")
        if self.machine.user != "root":
            raise wrong("can't log in as another than root", "remove 'user:'; the answer file lets root in")
        return self


METHODS: dict[str, type[Image]] = {"dib": DibImage, "boot": BootImage, "install": InstallImage}


def _below(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `list[File] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_below, typing.get_args(annotation))), None)


def known_keys(path: tuple[str | int, ...], method: str) -> list[str]:
    """The keys that an image of this method may have at this path, for 'did you mean'."""
    model: type[BaseModel] = METHODS.get(method, DibImage)
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _below(model.model_fields[part].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def mean(path: tuple[str | int, ...], word: str, method: str) -> str:
    """The hint for an unknown key at this path."""
    known = known_keys(path, method)
    others = [name for name, model in METHODS.items() if not path and word in model.model_fields]
    if others:
        return f"it belongs to method: {listed(others)}"
    return did_you_mean(word, known, f"known keys: {', '.join(known)}")
