"""A recipe that was found good: plain, frozen, and JSON wherever it goes from here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imageflow.errors import NotFound, RecipeError
from imageflow.model import Json
from imageflow.recipe.inputs import ANSWERS
from imageflow.recipe.problems import did_you_mean, dotted


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """One image of a recipe; `data` is its canonical JSON, in which secrets are references only."""

    data: Json = field(repr=False)
    name: str
    where: Callable[[Sequence[str | int]], str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_json(cls, data: Json) -> ImageRecipe:
        """What `canonical` gave, as a build has stored it."""
        return cls(data, data["name"])

    def canonical(self) -> dict[str, Any]:
        """Everything the recipe says about this image, defaults included.

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
    def machine(self) -> Json:
        """What the image is made on: {"vcpus", "memory" MiB, "disk" GiB | None, "firmware", "user"}."""
        value: Json = self.data["machine"]
        return value

    @property
    def answers(self) -> tuple[str, str]:
        """The answer file: its kind (preseed, kickstart, autoinstall, autoyast), and its name."""
        return next((kind, str(self.data["answers"][kind])) for kind in ANSWERS if kind in self.data["answers"])

    @property
    def configure(self) -> Sequence[Json]:
        """The steps in their order, each with one key of a provisioner, and maybe "timeout" and "checkpoint"."""
        steps: Sequence[Json] = self.data["configure"]
        return steps

    @property
    def outputs(self) -> Sequence[str]:
        """qcow2, raw, tar, tgz, squashfs, vhd, aci, and kernel (which stands for the initrd too)."""
        kinds: Sequence[str] = self.data["outputs"]
        return kinds

    def definition(self, secret: Callable[[str], str]) -> dict[str, Any]:
        """diskimage-builder's entry with the secrets in it: for a child's environment only, never stored."""
        entry = copy.deepcopy(dict(self.dib))
        environment = entry.get("environment", {})
        entry["environment"] = {
            name: value if isinstance(value, str) else secret(value["secret"]) for name, value in environment.items()
        }
        return entry

    def error(self, path: Sequence[str | int], message: str, hint: str = "") -> RecipeError:
        """A RecipeError that names the place in the file, or the image where the file is not at hand."""
        place = self.where(path) if self.where else f"image {self.name}: {dotted(path)}"
        return RecipeError(f"{place}: {message}", hint=hint)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file."""

    path: Path  # absolute
    images: tuple[ImageRecipe, ...]

    @property
    def folder(self) -> Path:
        """Where the files that the recipe names are."""
        return self.path.parent

    def pick(self, names: Sequence[str] = ()) -> tuple[ImageRecipe, ...]:
        """The images with these names, in their order and once each; all of them for no name. Raises NotFound."""
        if not names:
            return self.images
        known = {image.name: image for image in self.images}
        for name in names:
            if name not in known:
                listing = f"it has: {', '.join(known)}"
                raise NotFound(f"{self.path.name} has no image {name!r}", hint=did_you_mean(name, known, listing))
        return tuple(known[name] for name in dict.fromkeys(names))
