"""The entries of `configure` and `verify`, for diskimage-builder's images and for machines."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from imageflow.recipe.fields import (
    MONTH,
    Account,
    EnvironmentValue,
    ImagePackage,
    Line,
    Mode,
    Owner,
    Package,
    Password,
    Place,
    Requirement,
    Strict,
    Unit,
    wrong,
)


class File(Strict):
    """A file to put into the image."""

    source: Annotated[str | None, Field(description="A file in the recipe's folder.")] = None
    content: Annotated[str | None, Field(description="The content itself.")] = None
    path: Annotated[Place, Field(description="Its path in the image.")]
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
            raise wrong(f"enables and disables {both[0]!r}", "keep one of them")
        return self


Reboots = Annotated[
    bool, Field(description="The machine reboots in it, or is rebooted after it; the next entry runs when it is up.")
]


class Script(Strict):
    """A script: its text, or a file in the recipe's folder."""

    run: Annotated[
        str | None, Field(min_length=1, description="The script itself; run by sh unless it begins with '#!'.")
    ] = None
    source: Annotated[str | None, Field(description="A file in the recipe's folder.")] = None
    environment: Annotated[dict[str, EnvironmentValue], Field(description="Text, or {secret: NAME}.")] = {}
    reboot: Reboots = False

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core_schema)]}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise wrong("is a list, expected text", "write 'shell: |', and each command on a line of its own below it")
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
        list[str], Field(alias="with", description="Files and folders that it uses: it sees nothing else.")
    ] = []
    variables: Annotated[dict[str, Any], Field(description="Extra variables; a value may be {secret: NAME}.")] = {}
    tags: list[Line] = []
    reboot: Reboots = False


class Puppet(Strict):
    """A manifest, applied in the machine by `puppet apply`."""

    manifest: Annotated[str, Field(description="A file in the recipe's folder.")]
    modules: Annotated[list[str], Field(description="Folders with modules.")] = []
    reboot: Reboots = False


class Salt(Strict):
    """States, applied in the machine by `salt-call --local`."""

    states: Annotated[str, Field(description="A folder in the recipe's folder: the file root.")]
    apply: Annotated[Line | None, Field(description="Which state; the highstate by default.")] = None
    pillar: dict[str, Any] = {}
    reboot: Reboots = False


class Chef(Strict):
    """Cookbooks, run in the machine by `chef-client --local-mode`."""

    cookbooks: Annotated[str, Field(description="A folder in the recipe's folder.")]
    run_list: Annotated[list[Line], Field(min_length=1)]
    reboot: Reboots = False


class Reboot(Strict):
    """A reboot of the machine; the next entry runs when it is up."""


class ConfigureStep(Strict):
    """One entry of `configure` of a static image: exactly one of these."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    packages: Annotated[list[ImagePackage], Field(min_length=1)] | None = None
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
            raise wrong("has variables but is not a template", "add 'template: true'")
        return self


class MachineStep(ConfigureStep):
    """One entry of `configure` of a booted machine: exactly one of these, and its own limits."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    packages: Annotated[list[Package], Field(min_length=1)] | None = None
    files: Annotated[list[MachineFile], Field(min_length=1)] | None = None  # type: ignore[assignment]
    shell: Script | None = None
    ansible: Ansible | None = None
    puppet: Puppet | None = None
    salt: Salt | None = None
    chef: Chef | None = None
    reboot: Reboot | None = None
    timeout: Annotated[float, Field(gt=0, le=MONTH, description="Seconds.")] | None = None
    checkpoint: Annotated[bool, Field(description="Keep a layer after it, even where that is not free.")] = False


class Verification(Strict):
    """One check inside a throw-away boot of the finished image; it fails when the script does."""

    shell: Script
    timeout: Annotated[float, Field(gt=0, le=MONTH, description="Seconds.")] = 300.0

    @model_validator(mode="after")
    def _stays_up(self) -> Verification:
        if self.shell.reboot:
            raise wrong("reboots the machine that it checks", "remove 'reboot:'; the image was booted for this check")
        return self
