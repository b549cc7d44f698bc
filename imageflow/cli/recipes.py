"""`imageflow recipe …`: is a recipe right, what does it mean, what would building it do."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Command, TextLister
from imageflow.cli.present import Lines, Optional, Took, duration, short

if TYPE_CHECKING:
    from imageflow.intake import Plan
    from imageflow.recipe import ImageRecipe

_VERDICTS = {"run": "will run"}
DIGEST = re.compile(r"[0-9a-f]{64}")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE [IMAGE…] and --set, as every command that reads a recipe takes them."""
    parser.add_argument("file", metavar="FILE", type=Path, help="the recipe")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="images of the recipe (default: all)")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="settings",
        action="append",
        default=[],
        type=setting,
        help="replace a value of the recipe, e.g. publish.keep=3; can be repeated",
    )


def setting(text: str) -> tuple[str, str]:
    """KEY=VALUE, as --set takes it."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value


def pinned_lines(pins: Mapping[str, str]) -> Iterator[str]:
    """The inputs by kind, long values shortened: kind, name, value."""
    names = [name.partition(":") for name in sorted(pins)]
    kinds = max((len(kind) for kind, _, _ in names), default=0)
    width = max((len(rest) for _, _, rest in names), default=0)
    for kind, group in groupby(names, key=lambda parts: parts[0]):
        for number, parts in enumerate(group):
            value = str(pins["".join(parts)])
            value = short(value) if DIGEST.fullmatch(value) else value
            yield f"{kind if number == 0 else '':<{kinds}}  {parts[2]:<{width}}  {value}".rstrip()


class _RecipeCommand(TextLister):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_recipe_arguments(parser)
        return parser

    def images(self, parsed_args: argparse.Namespace) -> tuple[ImageRecipe, ...]:
        """The images of the recipe that are asked for."""
        from imageflow import intake

        return intake.validate(self.app.config(), parsed_args.file, parsed_args.images, dict(parsed_args.settings))


class Validate(_RecipeCommand):
    """Check a recipe: nothing is built, nothing is changed

    Everything is checked that can be checked without running anything: YAML, keys and types, names of
    elements, local files, diskimage-builder's own definition. Exit code 2 when the recipe is not right.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        self._file = parsed_args.file
        self._rows = [(image.name, image.method) for image in self.images(parsed_args)]
        return ("image", "method"), self._rows

    def text(self) -> Iterable[str]:
        names = ", ".join(name for name, _ in self._rows)
        return [f"{self._file}: right ({len(self._rows)} image{'s' if len(self._rows) != 1 else ''}: {names})"]


class Show(_RecipeCommand):
    """Show what a recipe means: every default filled in, secrets as references"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        self._images = [dict(image.canonical()) for image in self.images(parsed_args)]
        columns = list(dict.fromkeys(key for image in self._images for key in image))
        return columns, [[image.get(key) for key in columns] for image in self._images]

    def text(self) -> Iterable[str]:
        import yaml

        return yaml.safe_dump({"images": self._images}, sort_keys=False, allow_unicode=True).splitlines()


class PlanBuilds(_RecipeCommand):
    """Say what building a recipe would do, and why: reuse, join or build"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            self._plans = service.plan(parsed_args.file, parsed_args.images, dict(parsed_args.settings))
        columns = ("image", "method", "verdict", "reason", "build", "key", "seconds", "steps", "stages", "pins")
        return columns, [_row(plan) for plan in self._plans]

    def text(self) -> Iterable[str]:
        for number, plan in enumerate(self._plans):
            if number:
                yield ""
            yield from _describe(plan)


def _row(plan: Plan) -> tuple[Any, ...]:
    return (
        plan.image,
        plan.method,
        plan.verdict,
        plan.reason,
        Optional(plan.build.id if plan.build else None),
        plan.key,
        Took(plan.seconds),
        Lines([name for name, _ in plan.steps], [name for name, _ in plan.steps]),
        Lines([dataclasses.asdict(stage) for stage in plan.stages], list(stage_lines(plan))),
        Lines(dict(plan.pins), list(pinned_lines(plan.pins))),
    )


def _describe(plan: Plan) -> Iterator[str]:
    yield f"{plan.image} ({plan.method}): {plan.verdict}"
    yield f"  why     {plan.reason}"
    if plan.build is not None:
        yield f"  build   {plan.build.id} ({plan.build.state})"
    yield f"  key     {plan.key}"
    if plan.verdict == "build":
        yield f"  takes   {'about ' + duration(plan.seconds) if plan.seconds is not None else 'not known yet: no earlier build'}"
    yield f"  steps   {', '.join(title or name for name, title in plan.steps)}"
    if plan.stages:
        kept = sum(stage.verdict == "reused" for stage in plan.stages)
        yield f"  stages  {kept} of {len(plan.stages)} reused"
        yield from (f"    {line}" for line in stage_lines(plan))
    yield f"  inputs  {len(plan.pins)} pinned"
    yield from (f"    {line}" for line in pinned_lines(plan.pins))


def stage_lines(plan: Plan) -> Iterator[str]:
    """What of a machine's disk is there already, and why the rest is made: verdict, stage, reason."""
    width = max((len(stage.title) for stage in plan.stages), default=0)
    for stage in plan.stages:
        yield f"{_VERDICTS.get(stage.verdict, stage.verdict):<8}  {stage.title:<{width}}  {stage.why}".rstrip()


class Schema(Command):
    """Print the JSON Schema of recipes, for editors"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("recipe", metavar="FILE", nargs="*", help="ignored: all recipes have the same schema")
        parser.add_argument("-f", "--format", choices=["json", "yaml"], default="json", help="default: json")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from imageflow import recipe

        if parsed_args.format == "json":
            self.app.stdout.write(json.dumps(recipe.schema(), indent=2) + "\n")
        else:
            import yaml

            yaml.safe_dump(recipe.schema(), self.app.stdout, sort_keys=False)
