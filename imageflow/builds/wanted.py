"""What a recipe asks for now: its images with their canonical recipes, pins and build keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
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
    remarks: tuple[str, ...] = ()  # what is odd and stops no build

    def why(self, before: Build | None) -> str:
        """The reason for building it, compared with the build of the previous version."""
        from imageflow.inputs import fingerprint

        return fingerprint.why(before, self.canonical, self.pins)


class PlanVerdict(StrEnum):
    """What a request for an image would do."""

    REUSE = "reuse"  # an existing version
    JOIN = "join"  # an unfinished build of the same inputs
    BUILD = "build"


class StageVerdict(StrEnum):
    """What would happen to one stage of a machine's disk."""

    REUSED = "reused"  # a layer of it exists
    RUN = "run"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a machine's disk in a plan."""

    name: str  # of the step that makes it
    title: str
    verdict: StageVerdict
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What submitting a recipe would do with one image."""

    image: str
    method: str
    key: str
    verdict: PlanVerdict
    reason: str
    build: Build | None  # the build that would be reused or joined
    pins: Json
    steps: tuple[tuple[str, str], ...]  # (name, title)
    seconds: float | None  # expected duration, from earlier builds of this image
    stages: tuple[StagePlan, ...] = ()  # of a machine's disk: which of them exist already
    remarks: tuple[str, ...] = ()  # what is odd and stops no build
    waits: str | None = None  # what its build waits for, or would wait for first


def wanted_image(
    config: Config,
    image: ImageRecipe,
    folder: Path,
    base_of: Callable[[str], str],
    learnt: Callable[[str], dict[str, str]],
) -> Wanted:
    """An image with its inputs pinned; local inputs are relative to `folder`.

    `base_of` gives the digest of the image that another one is based on; raises NotFound. `learnt` gives what
    events said about the inputs of an image; it is called only for images with triggers.

    Raises RecipeError, or Unavailable when an input to be pinned does not answer.
    """
    from imageflow import inputs
    from imageflow.builds import precheck
    from imageflow.inputs import fingerprint

    canonical = image.canonical()
    remarks = (*map(str, image.remarks), *precheck.check(image, folder, config))
    pinned = inputs.pin(image, folder, config, base_of) | _watched_images(image, base_of)
    if image.on:
        pinned |= learnt(image.name)
    key = fingerprint.build_key(canonical, pinned)
    return Wanted(image.name, image.method, canonical, pinned, key, folder, remarks)


def _watched_images(image: ImageRecipe, base_of: Callable[[str], str]) -> dict[str, str]:
    """Images whose new versions trigger this one are inputs of it, too: "image:NAME" -> digest."""
    from imageflow.inputs.pins import Kind, pin_name

    names = {*image.watched_images} - {image.made_from.image}
    found = {}
    for name in sorted(names):
        with contextlib.suppress(NotFound):  # it has no version yet
            found[pin_name(Kind.IMAGE, name)] = base_of(name)
    return found


def stage_plans(wanted: Wanted, before: Build | None, layers: Layers) -> tuple[StagePlan, ...]:
    """Which stages of a machine's disk exist as layers here, and why the others run."""
    from imageflow.inputs.stages import stages

    found = stages(wanted.canonical, wanted.pins)
    earlier = {stage.name: stage.key for stage in stages(before.recipe, before.pins)} if before is not None else {}
    deepest = max((at for at, stage in enumerate(found) if layers.find(stage.key)), default=-1)
    plans: list[StagePlan] = []
    for at, stage in enumerate(found):
        if at <= deepest:
            plans.append(StagePlan(stage.name, stage.title, StageVerdict.REUSED, "its layer is here"))
        elif earlier.get(stage.name) == stage.key:
            plans.append(StagePlan(stage.name, stage.title, StageVerdict.RUN, "its layer is not on this host"))
        elif not earlier:
            plans.append(StagePlan(stage.name, stage.title, StageVerdict.RUN, "never built here"))
        elif plans and plans[-1].verdict is StageVerdict.RUN:
            plans.append(StagePlan(stage.name, stage.title, StageVerdict.RUN, "it stands on one that runs"))
        else:
            plans.append(StagePlan(stage.name, stage.title, StageVerdict.RUN, "it changed, or what it uses did"))
    return tuple(plans)


def after(name: str, base: str) -> Plan:
    """The plan of an image whose base has to be built first: its inputs are not known before."""
    return Plan(name, "boot", "", PlanVerdict.BUILD, f"when its base {base} is built", None, {}, (), None)


def bases(picked: Sequence[ImageRecipe]) -> dict[str, str | None]:
    """These images, each after its base if that is among them: name -> its base, or None."""
    called = {image.name: image.name for image in picked} | {image.publish.name: image.name for image in picked}
    wanted = {image.name: image.made_from.image for image in picked}
    named = {name: base and called.get(base, base) for name, base in wanted.items()}
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
    """First all images with no base among these, then each of the others: (names, their base)."""
    if first := [name for name, base in bases.items() if base is None]:
        yield first, None
    yield from (([name], base) for name, base in bases.items() if base is not None)


def validate(
    config: Config, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> tuple[ImageRecipe, ...]:
    """Check everything about a recipe that needs no network; raises RecipeError."""
    return tuple(image for image, _remarks in checked(config, file, images, settings))


def checked(
    config: Config, file: Path, images: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> list[tuple[ImageRecipe, tuple[str, ...]]]:
    """As `validate`, with the remarks on each image: what is odd and stops no build."""
    from imageflow import inputs, recipe
    from imageflow.builds import precheck

    loaded = recipe.load(file, settings or {}, images)
    found = []
    for image in loaded.pick(images):
        inputs.check(image, loaded.folder, config)
        found.append((image, (*map(str, image.remarks), *precheck.check(image, loaded.folder, config))))
    return found
