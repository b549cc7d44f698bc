"""The language of recipes, as pydantic models; diskimage-builder's own part is in `definition`."""

from __future__ import annotations

import re
import typing
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from imageflow.recipe import elsewhere
from imageflow.recipe import on as triggers
from imageflow.recipe.fields import MONTH, Account, Line, Name, Sha256, Strict, wrong
from imageflow.recipe.inputs import ANSWERS, is_id, is_url
from imageflow.recipe.on import On
from imageflow.recipe.problems import did_you_mean, listed
from imageflow.recipe.steps import ConfigureStep, MachineStep, Verification

Output = Literal["qcow2", "raw", "tar", "tgz", "squashfs", "vhd", "aci", "kernel"]
DiskOutput = Literal["qcow2", "raw", "vhd"]


class Publish(Strict):
    """How the image is published."""

    name: Annotated[Name | None, Field(description="The image's name by default.")] = None
    keep: Annotated[int | None, Field(ge=1, le=100_000, description="Versions to keep; all by default.")] = None
    properties: dict[str, str] = {}
    visibility: Annotated[
        Literal["private", "shared", "community", "public"] | None,
        Field(description="Visibility in Glance; the configuration's by default."),
    ] = None


class Timeout(Strict):
    """Limits in seconds; the configuration's by default."""

    build: Annotated[float, Field(gt=0, le=MONTH)] | None = None
    step: Annotated[float, Field(gt=0, le=MONTH)] | None = None


class Machine(Strict):
    """The machine on which an image is made."""

    vcpus: Annotated[int, Field(ge=1, le=256)] = 2
    memory: Annotated[int, Field(ge=32, le=4 << 20, description="MiB.")] = 1024
    disk: Annotated[int | None, Field(ge=1, le=65536, description="GiB; the base's own size by default.")] = None
    firmware: Literal["bios", "uefi"] = "bios"
    user: Annotated[Account, Field(description="Account to log in as; any other than root needs sudo.")] = "root"


_FILTERS = re.compile(r"[a-z][A-Za-z0-9_:.-]{0,254}")
_NO_PROPERTIES = ("name", "id", "status", "tag", "limit", "marker", "sort", "sort_key", "sort_dir", "os_hidden")


def _in_glance(value: str) -> str:
    if not value.strip() or len(value) > 255 or not value.isprintable() or value != value.strip():
        raise wrong("is not an image in Glance", "its name or its id, as 'openstack image list' shows them")
    return value


def _wanted(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if key in _NO_PROPERTIES or not _FILTERS.fullmatch(key):
            raise wrong(f"{key[:60]!r} is not a property to choose an image by", "such as os_distro or architecture")
    return value


InGlance = Annotated[
    Annotated[str, AfterValidator(_in_glance)] | None,
    Field(description="Name of an image in Glance, meaning the newest of that name; or an image's id."),
]
Properties = Annotated[
    Annotated[dict[str, str], AfterValidator(_wanted)] | None,
    Field(description="Properties that the image in Glance must have; with 'glance'."),
]


class Base(Strict):
    """The initial content of a machine's disk: exactly one of image, file, url and glance."""

    image: Annotated[Name | None, Field(description="Another image of imageflow: its newest version.")] = None
    file: Annotated[str | None, Field(description="A qcow2 or raw file: absolute, or relative to the recipe.")] = None
    url: Annotated[str | None, Field(description="Where to download it.")] = None
    glance: InGlance = None
    properties: Properties = None
    sha256: Annotated[Sha256 | None, Field(description="What it must be; this or checksums, with a url.")] = None
    checksums: Annotated[
        str | None, Field(description="URL or file with its SHA-256 now, such as …/SHA256SUMS: it may be replaced.")
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Base:
        _one_source(self, ("image", "file", "url", "glance"))
        if self.image is not None and self.sha256 is not None:
            raise wrong("has a sha256 for an image", "remove it: images are pinned by their digests anyway")
        return self


class Iso(Strict):
    """An installer ISO: exactly one of file, url and glance."""

    file: Annotated[str | None, Field(description="Absolute, or relative to the recipe.")] = None
    url: Annotated[str | None, Field(description="Where to download it.")] = None
    glance: InGlance = None
    properties: Properties = None
    sha256: Annotated[Sha256 | None, Field(description="What it must be; this or checksums, with a url.")] = None
    checksums: Annotated[
        str | None, Field(description="URL or file with its SHA-256 now, such as …/SHA256SUMS: it may be replaced.")
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Iso:
        _one_source(self, ("file", "url", "glance"))
        return self


def _one_source(model: Base | Iso, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise wrong(f"needs one of {', '.join(names)}", f"{names[0]}: …")
    if model.glance is None and model.properties is not None:
        raise wrong("has properties without glance", "they choose among images of one name in Glance: glance: NAME")
    if model.glance is not None and model.sha256 is not None:
        raise wrong("has a sha256 for an image in Glance", "remove it: it is pinned by its id and hash anyway")
    if model.glance is not None and model.properties is not None and is_id(model.glance):
        raise wrong("has properties, and names one image by its id", "remove them, or write its name")
    if model.url is None:
        if model.checksums is not None:
            raise wrong("has checksums without a url", f"remove them: a {given[0]} is pinned by its digest anyway")
        return
    if not re.match(r"(https?|file)://[^\s]+\Z", model.url):
        raise wrong("has a url that can't be fetched", "http://, https:// or file://")
    if model.sha256 is None and model.checksums is None:
        raise wrong(
            "has a url without its sha256",
            "add 'sha256:', so that the same recipe means the same bytes; or 'checksums:' if it may be replaced",
        )
    if model.checksums is not None:
        if model.sha256 is not None:
            raise wrong("has a sha256 and checksums", "sha256 if it never changes, checksums if it is replaced")
        if model.url.endswith("/"):
            raise wrong("has a url without a file name, and checksums", "name the file, as the checksums do")
        if is_url(model.checksums) and not re.match(r"(https?|file)://[^\s]+\Z", model.checksums):
            raise wrong("has checksums that can't be fetched", "http://, https://, file://, or a file")


class AnswerFile(Strict):
    """The answer file of an unattended installation: exactly one of the first four."""

    preseed: str | None = None
    kickstart: str | None = None
    autoinstall: str | None = None
    autoyast: str | None = None
    release: Annotated[Line | None, Field(description="kickstart: the system that is installed, such as rocky9.")] = (
        None
    )
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
    """The keys of every image, whatever its method."""

    name: Name
    method: Literal["dib", "boot", "install"]
    publish: Publish = Publish()
    on_failure: Literal["pause", "revert"] = "pause"
    timeout: Timeout = Timeout()
    on: On = []

    @field_validator("outputs", check_fields=False)
    @classmethod
    def _once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise wrong("names an output twice", "name each once")
        return value


class DibImage(Image):
    """An image built by diskimage-builder."""

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
            raise wrong("does not set the size of the disk", "machine: {disk: GIB}")
        if self.machine.user != "root":
            raise wrong("can only log in as root", "remove 'user:'; the answer file authorizes root")
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
    """The hint for an unknown key at this path, which below `on` has the entry's kind after its index."""
    if path[:1] == ("on",) and len(path) > 2:
        return triggers.mean(str(path[2]), word)
    known = known_keys(path, method)
    others = [name for name, model in METHODS.items() if not path and word in model.model_fields]
    if others:
        return f"it belongs to method: {listed(others)}"
    return elsewhere.hint(word) or did_you_mean(word, known, f"known keys: {', '.join(known)}")
