"""What a recipe asks for, right now: its images with their canonical recipes, pins and build keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imageflow.config import Config
from imageflow.errors import NotFound
from imageflow.model import Build, Json

if TYPE_CHECKING:
    from imageflow.compute import Layers
    from imageflow.recipe import ImageRecipe


@dataclass(frozen=True, slots=True)
class Wanted:
    """One image as it would be built now."""

    image: str
    method: str
    canonical: Json
    pins: Json
    key: str
    folder: Path  # local inputs are relative to it

    def why(self, before: Build | None) -> str:
        """The reason for building it, against the build of the version before."""
        from imageflow import fingerprint

        return fingerprint.why(before, self.canonical, self.pins)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a machine's disk in a plan."""

    name: str  # of the step that makes it
    title: str
    verdict: str  # reused, run
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What submitting a recipe would do with one image."""

    image: str
    method: str
    key: str
    verdict: str  # reuse, join, build
    reason: str
    build: Build | None  # the one that would be reused or joined
    pins: Json
    steps: tuple[tuple[str, str], ...]  # (name, title)
    seconds: float | None  # how long it will take, from earlier builds of this image
    stages: tuple[StagePlan, ...] = ()  # of a machine's disk: what of it is there already


def wanted(
    config: Config,
    file: Path,
    images: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    *,
    base_of: Callable[[str], str],
    learnt: Callable[[str], dict[str, str]],
) -> list[Wanted]:
    """Load a recipe and pin the inputs of the images that are asked for (all by default).

    `base_of` gives the digest of an image that another one is made from; raises NotFound. `learnt` gives what
    events said about the inputs of an image; it is asked for images that have triggers.

    Raises RecipeError, and Unavailable when something to pin does not answer.
    """
    from imageflow import recipe

    loaded = recipe.load(file, settings or {}, images)
    return [wanted_image(config, image, loaded.folder, base_of, learnt) for image in loaded.pick(images)]


def wanted_image(
    config: Config,
    image: ImageRecipe,
    folder: Path,
    base_of: Callable[[str], str],
    learnt: Callable[[str], dict[str, str]],
) -> Wanted:
    """Pin the inputs of one image; `folder`: its local inputs are relative to it. Raises as `wanted`."""
    from imageflow import fingerprint, pins, precheck

    canonical = image.canonical()
    precheck.check(image, folder, config)
    pinned = pins.pin(image, folder, config, base_of) | _watched_images(canonical, base_of)
    if canonical.get("on"):
        pinned |= learnt(image.name)
    return Wanted(image.name, image.method, canonical, pinned, fingerprint.build_key(canonical, pinned), folder)


def _watched_images(canonical: Json, base_of: Callable[[str], str]) -> dict[str, str]:
    """The images whose new versions ask for this one are inputs of it, too: "image:NAME" -> digest."""
    base = (canonical.get("base") or {}).get("image")
    names = {entry["image"] for entry in canonical.get("on") or () if "image" in entry} - {base}
    found = {}
    for name in sorted(names):
        with contextlib.suppress(NotFound):  # it has no version yet
            found[f"image:{name}"] = base_of(name)
    return found


def stage_plans(wanted: Wanted, before: Build | None, layers: Layers) -> tuple[StagePlan, ...]:
    """Which stages of a machine's disk are there as layers here, and why the others run."""
    from imageflow.stages import stages

    found = stages(wanted.canonical, wanted.pins)
    earlier = {stage.name: stage.key for stage in stages(before.recipe, before.pins)} if before is not None else {}
    deepest = max((at for at, stage in enumerate(found) if layers.find(stage.key)), default=-1)
    plans: list[StagePlan] = []
    for at, stage in enumerate(found):
        if at <= deepest:
            plans.append(StagePlan(stage.name, stage.title, "reused", "its layer is here"))
        elif earlier.get(stage.name) == stage.key:
            plans.append(StagePlan(stage.name, stage.title, "run", "its layer is not here (any more)"))
        elif not earlier:
            plans.append(StagePlan(stage.name, stage.title, "run", "never built here"))
        elif plans and plans[-1].verdict == "run":
            plans.append(StagePlan(stage.name, stage.title, "run", "it stands on one that runs"))
        else:
            plans.append(StagePlan(stage.name, stage.title, "run", "it changed, or what it uses did"))
    return tuple(plans)


def after(name: str, base: str) -> Plan:
    """The plan of an image whose base has to be built first: what goes into it is not known before."""
    return Plan(name, "boot", "", "build", f"when its base {base} is built", None, {}, (), None)


def bases(file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """The images that are asked for, each after the one of them that it is made from: name -> that one, or None."""
    from imageflow import recipe

    picked = recipe.load(file, settings or {}, images).pick(images)
    called = {image.name: image.name for image in picked} | {
        image.data["publish"]["name"]: image.name for image in picked if image.data.get("publish")
    }
    wanted = {image.name: (image.data.get("base") or {}).get("image") for image in picked}
    named = {name: called.get(base, base) for name, base in wanted.items()}
    found: dict[str, str | None] = {}

    def add(name: str) -> None:
        base = named[name] if named[name] in named else None
        if base is not None and base not in found:
            add(base)
        found[name] = base

    for name in named:
        add(name)
    return found


def batches(bases: Mapping[str, str | None]) -> Iterator[tuple[list[str], str | None]]:
    """Those that are made from none of the others at once, then each of the others: (names, what they are made from)."""
    if first := [name for name, base in bases.items() if base is None]:
        yield first, None
    yield from (([name], base) for name, base in bases.items() if base is not None)


def validate(
    config: Config, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> tuple[ImageRecipe, ...]:
    """Everything about a recipe that can be checked without network; raises RecipeError."""
    from imageflow import pins, precheck, recipe

    loaded = recipe.load(file, settings or {}, images)
    picked = loaded.pick(images)
    for image in picked:
        pins.check(image, loaded.folder, config)
        precheck.check(image, loaded.folder, config)
    return picked
