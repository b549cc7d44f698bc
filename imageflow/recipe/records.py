"""Records of a valid recipe: plain, frozen, convertible to JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from imageflow.errors import NotFound, RecipeError
from imageflow.model import Json
from imageflow.recipe.inputs import ANSWERS
from imageflow.recipe.problems import Problem, did_you_mean, dotted


class OnFailure(StrEnum):
    """What happens to a build after a failed step."""

    PAUSE = "pause"  # finished steps are kept until a user resumes or aborts it
    REVERT = "revert"  # everything it made is removed at once


@dataclass(frozen=True, slots=True)
class Publishing:
    """How a finished version is published."""

    name: str  # the image's name by default
    keep: int | None  # number of versions to keep; None: all
    properties: Mapping[str, str]  # shown by the store to its users
    visibility: str | None  # private, shared, community, public; None: as the store is configured


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits in seconds; None: as configured."""

    build: float | None  # the whole build
    step: float | None  # each step without its own limit


@dataclass(frozen=True, slots=True)
class MachineNeeds:
    """The machine on which an image is made."""

    vcpus: int
    memory: int  # MiB
    disk: int | None  # GiB; None: the size of its source
    firmware: str  # bios, uefi
    user: str  # the account to log in as


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """The base or ISO of an image, given by one of image, file, url and glance."""

    key: str  # key in the recipe: base, iso; '' for diskimage-builder
    image: str | None = None  # another imageflow image
    file: str | None = None  # relative to the recipe's folder, or absolute
    url: str | None = None
    sha256: str | None = None  # of the file or of the URL's content
    checksums: str | None = None  # or a list of digests that contains it: a URL or a file
    glance: str | None = None  # name or id of an image in Glance
    properties: Mapping[str, str] = field(default_factory=dict)  # that it must have


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """The answer file of an unattended installation."""

    kind: str  # preseed, kickstart, autoinstall, autoyast
    name: str  # of the file, relative to the recipe's folder
    release: str | None  # whose syntax it must have
    arguments: str | None  # more kernel arguments


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """One image of a recipe; `data` is its canonical JSON, in which secrets are references only.

    Read it only through the properties; they also accept incomplete recipes.
    """

    data: Json = field(repr=False)
    name: str
    where: Callable[[Sequence[str | int]], str] | None = field(default=None, repr=False, compare=False)
    remarks: tuple[Problem, ...] = field(default=(), repr=False, compare=False)  # what is valid, but better otherwise

    @classmethod
    def from_json(cls, data: Json) -> ImageRecipe:
        """From the result of `canonical`, as stored with a build."""
        return cls(data, str(data.get("name") or ""))

    def canonical(self) -> dict[str, Any]:
        """The whole recipe of this image, defaults included.

        {"name", "method", …, "configure": [{"packages": […]}, …], "outputs": […],
        "publish": {"name", "keep", "properties", "visibility"?}, "on_failure", "timeout": {"build", "step"},
        "on": [{"schedule", "timezone", "jitter"} | {"image"} | {"event", "where"} | {"git", "ref", "every"} | {"watch", "every"}]}
        dib: "dib": {…}. boot, install: "machine": {"vcpus", "memory", "disk", "firmware", "user"},
        "verify": [{"shell": {…}, "timeout"}]. boot: "base": {"image"} | {"file"} | {"url", "sha256" | "checksums"} |
        {"glance", "properties"?}. install: "iso": the same without "image", "answers": {KIND: file, "release"?, "arguments"?}.
        """
        return copy.deepcopy(dict(self.data))

    @property
    def method(self) -> str:
        return str(self.data["method"])

    @property
    def dib(self) -> Json:
        """diskimage-builder's entry; values of its environment are text or {"secret": NAME}."""
        value: Json = self.data.get("dib", {})
        return value

    @property
    def on_machine(self) -> bool:
        """Whether the image is made on a machine."""
        return "machine" in self.data

    @property
    def machine(self) -> MachineNeeds:
        """The machine on which the image is made."""
        given = self.data["machine"]
        return MachineNeeds(
            given.get("vcpus"),
            given.get("memory"),
            given.get("disk"),
            str(given.get("firmware") or ""),
            str(given.get("user") or "root"),
        )

    @property
    def made_from(self) -> MadeFrom:
        """The base or the ISO."""
        key = next((key for key in ("base", "iso") if self.data.get(key)), "")
        return MadeFrom(key, **self.data[key]) if key else MadeFrom(key)

    @property
    def answers(self) -> AnswerFile:
        """The answer file of an installed image."""
        given = self.data["answers"]
        kind = next(kind for kind in ANSWERS if kind in given)
        return AnswerFile(kind, str(given[kind]), given.get("release"), given.get("arguments"))

    @property
    def configure(self) -> Sequence[Json]:
        """The steps in order, each with one provisioner's key, and optionally "timeout" and "checkpoint"."""
        steps: Sequence[Json] = self.data.get("configure", ())
        return steps

    @property
    def verify(self) -> Sequence[Json]:
        """The checks in order, each with one provisioner's key, and "timeout"."""
        checks: Sequence[Json] = self.data.get("verify", ())
        return checks

    @property
    def publish(self) -> Publishing:
        """How a finished version is published."""
        given = self.data.get("publish") or {}
        return Publishing(
            str(given.get("name") or self.name),
            given.get("keep"),
            given.get("properties") or {},
            given.get("visibility"),
        )

    @property
    def on_failure(self) -> OnFailure:
        """What happens to a build after a failed step."""
        return OnFailure(self.data.get("on_failure") or OnFailure.PAUSE)

    @property
    def timeout(self) -> TimeLimits:
        """How long a build may take."""
        given = self.data.get("timeout") or {}
        return TimeLimits(given.get("build"), given.get("step"))

    @property
    def on(self) -> Sequence[Json]:
        """The triggers in order."""
        entries: Sequence[Json] = self.data.get("on") or ()
        return entries

    @property
    def watched_images(self) -> Sequence[str]:
        """The imageflow images whose new versions trigger this one, each once."""
        return list(dict.fromkeys(str(entry["image"]) for entry in self.on if entry.get("image")))

    @property
    def outputs(self) -> Sequence[str]:
        """qcow2, raw, tar, tgz, squashfs, vhd, aci, and kernel (which stands for the initrd too)."""
        kinds: Sequence[str] = self.data["outputs"]
        return kinds

    def definition(self, secret: Callable[[str], str]) -> dict[str, Any]:
        """diskimage-builder's entry with the secrets filled in: for a child's environment only, never stored."""
        entry = copy.deepcopy(dict(self.dib))
        environment = entry.get("environment", {})
        entry["environment"] = {
            name: value if isinstance(value, str) else secret(value["secret"]) for name, value in environment.items()
        }
        return entry

    def error(self, path: Sequence[str | int], message: str, hint: str = "") -> RecipeError:
        """A RecipeError that names the place in the file, or the image if the file is not loaded."""
        place = self.where(path) if self.where else f"image {self.name}: {dotted(path)}"
        return RecipeError(f"{place}: {message}", hint=hint)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file."""

    path: Path  # absolute
    images: tuple[ImageRecipe, ...]

    @property
    def folder(self) -> Path:
        """The folder that the recipe's paths are relative to."""
        return self.path.parent

    def pick(self, names: Sequence[str] = ()) -> tuple[ImageRecipe, ...]:
        """The images with these names, in order and once each; all without names. Raises NotFound."""
        if not names:
            return self.images
        known = {image.name: image for image in self.images}
        for name in names:
            if name not in known:
                listing = f"it has: {', '.join(known)}"
                raise NotFound(f"{self.path.name} has no image {name!r}", hint=did_you_mean(name, known, listing))
        return tuple(known[name] for name in dict.fromkeys(names))
