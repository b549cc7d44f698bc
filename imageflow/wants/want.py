"""A want: what should be in an image. Two that mean the same are equal, whatever their order and spelling."""

from __future__ import annotations

from typing import Annotated, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from imageflow.recipe.fields import Mode, Name, Owner, Package, Place, Strict, wrong

PACKAGES, PIP, FILES = "packages", "pip_packages", "custom_files"
PARTS = (PACKAGES, PIP, FILES)  # what an entry of the catalog may take
_MANY = 1000


def _package(value: str) -> str:
    if "://" in value or value.endswith((".deb", ".rpm")):
        raise wrong(f"{value[:60]!r} is a file, not the name of a package", "such as nginx, or nginx=1.22*")
    return value


def _requirement(value: str) -> str:
    """In pip's own normal form, which has one spelling for each requirement."""
    hint = "such as flask or flask==3.1.*; neither options nor URLs"
    try:
        found = Requirement(value)
    except InvalidRequirement:
        raise wrong(f"{value[:60]!r} is not a requirement that pip takes", hint) from None
    if found.url is not None:
        raise wrong(f"{value[:60]!r} comes from a URL", hint)
    found.name = canonicalize_name(found.name)
    return str(found)


class CustomFile(Strict):
    """A file to put into the image."""

    path: Annotated[Place, Field(description="Its path in the image.")]
    content: Annotated[str, Field(max_length=1 << 20, description="Its text.")]
    mode: Mode = "0644"
    owner: Owner = "root:root"

    @field_validator("mode")
    @classmethod
    def _four(cls, value: str) -> str:
        return value.zfill(4)

    @field_validator("owner")
    @classmethod
    def _with_group(cls, value: str) -> str:
        return "root:root" if value == "root" else value


class Want(Strict):
    """What should be in an image."""

    model_config = ConfigDict(title="Want")

    os: Annotated[Name, Field(description="An entry of the operator's catalog.")]
    packages: Annotated[
        list[Annotated[Package, AfterValidator(_package)]],
        Field(default_factory=list, max_length=_MANY, description="Packages of the distribution."),
    ]
    pip_packages: Annotated[
        list[Annotated[str, AfterValidator(_requirement)]],
        Field(default_factory=list, max_length=_MANY, description="Requirements for pip, without URLs."),
    ]
    custom_files: Annotated[list[CustomFile], Field(default_factory=list, max_length=_MANY)]
    config_system: Annotated[Name | None, Field(description="What applies `recipe`, such as chef or ansible.")] = None
    recipe: Annotated[Name | None, Field(description="A recipe of it that the catalog's entry has.")] = None

    @model_validator(mode="after")
    def _clear(self) -> Want:
        if (self.config_system is None) != (self.recipe is None):
            raise wrong("names one of 'config_system' and 'recipe'", "they go together")
        paths = [file.path for file in self.custom_files]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise wrong(f"custom_files has {twice!r} twice", "keep one of them")
        return self

    def canonical(self) -> dict[str, Any]:
        """The same JSON for everything that means the same; what is empty is left out."""
        said: dict[str, Any] = {
            PACKAGES: sorted(set(self.packages)),
            PIP: sorted(set(self.pip_packages)),
            FILES: [file.model_dump() for file in sorted(self.custom_files, key=lambda file: file.path)],
            "config_system": self.config_system,
            "recipe": self.recipe,
        }
        return {"os": self.os} | {key: value for key, value in said.items() if value}
