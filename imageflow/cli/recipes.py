"""`imageflow recipe …`: whether a recipe is valid, what it means, what building it would do."""

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
from imageflow.cli.present import LinesColumn, Optional, Took, duration, short

if TYPE_CHECKING:
    from imageflow.builds.wanted import Plan
    from imageflow.recipe import ImageRecipe

_VERDICTS = {"run": "will run"}
DIGEST = re.compile(r"[0-9a-f]{64}")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE [IMAGE…] and --set, for every command that reads a recipe."""
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
    """Argument type KEY=VALUE of --set."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key.strip(), value


def pinned_lines(pins: Mapping[str, str]) -> Iterator[str]:
    """The inputs by kind, with long values shortened: kind, name, value."""
    from imageflow.inputs.pins import Pins

    named = list(Pins(dict(sorted(pins.items()))))
    kinds = max((len(name.kind) for name, _value in named), default=0)
    width = max((len(name.rest) for name, _value in named), default=0)
    for kind, group in groupby(named, key=lambda pin: pin[0].kind):
        for number, (name, pinned) in enumerate(group):
            value = short(pinned) if DIGEST.fullmatch(str(pinned)) else str(pinned)
            yield f"{kind if number == 0 else '':<{kinds}}  {name.rest:<{width}}  {value}".rstrip()


class _RecipeCommand(TextLister):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_recipe_arguments(parser)
        return parser

    def checked(self, parsed_args: argparse.Namespace) -> list[tuple[ImageRecipe, tuple[str, ...]]]:
        """The requested images of the recipe, each with the remarks on it."""
        from imageflow.builds import wanted

        return wanted.checked(self.app.config(), parsed_args.file, parsed_args.images, dict(parsed_args.settings))


class Validate(_RecipeCommand):
    """Check a recipe: nothing is built, nothing is changed

    Checks everything that needs no program to run: YAML, keys and types, names of
    elements, local files, diskimage-builder's own definition, answer files as their installers read them.
    Exit code 2 when the recipe is not valid. A remark says what is odd, such as a password in plain text,
    and stops no build.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        self._file = parsed_args.file
        self._checked = self.checked(parsed_args)
        rows = [(image.name, image.method, LinesColumn(list(remarks), remarks)) for image, remarks in self._checked]
        return ("image", "method", "remarks"), rows

    def text(self) -> Iterable[str]:
        count, names = len(self._checked), ", ".join(image.name for image, _remarks in self._checked)
        yield f"{self._file}: right ({count} image{'s' if count != 1 else ''}: {names})"
        told = dict.fromkeys(remark for _image, remarks in self._checked for remark in remarks)
        yield from (f"remark: {remark}" for remark in told)


class Show(_RecipeCommand):
    """Show what a recipe means: every default filled in, secrets as references or masked"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.recipe import plain_secrets

        self._images = [plain_secrets.public(image.canonical()) for image, _remarks in self.checked(parsed_args)]
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
            from imageflow.builds.wanted import PlanVerdict

            by_dib = any(plan.method == "dib" and plan.verdict is PlanVerdict.BUILD for plan in self._plans)
            if by_dib and (refused := service.dib_refused()):
                self.app.note(f"images of the method dib: {refused}")
            runs = any(plan.method != "dib" and plan.verdict is PlanVerdict.BUILD for plan in self._plans)
            if runs and (notice := service.machine_notice()):
                self.app.note(f"machines: {notice}")
        columns = (
            "image",
            "method",
            "verdict",
            "reason",
            "build",
            "key",
            "seconds",
            "waits",
            "steps",
            "stages",
            "pins",
            "remarks",
        )
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
        Optional(plan.waits),
        LinesColumn([name for name, _ in plan.steps], [name for name, _ in plan.steps]),
        LinesColumn([dataclasses.asdict(stage) for stage in plan.stages], list(stage_lines(plan))),
        LinesColumn(dict(plan.pins), list(pinned_lines(plan.pins))),
        LinesColumn(list(plan.remarks), plan.remarks),
    )


def _describe(plan: Plan) -> Iterator[str]:
    from imageflow.builds.wanted import PlanVerdict, StageVerdict

    yield f"{plan.image} ({plan.method}): {plan.verdict}"
    yield f"  why     {plan.reason}"
    if plan.build is not None:
        yield f"  build   {plan.build.id} ({plan.build.state})"
    if plan.waits is not None:
        yield f"  waits   for {plan.waits}"
    yield f"  key     {plan.key}"
    if plan.verdict is PlanVerdict.BUILD:
        yield f"  takes   {'about ' + duration(plan.seconds) if plan.seconds is not None else 'not known yet: no earlier build'}"
    yield f"  steps   {', '.join(title or name for name, title in plan.steps)}"
    if plan.stages:
        kept = sum(stage.verdict is StageVerdict.REUSED for stage in plan.stages)
        yield f"  stages  {kept} of {len(plan.stages)} reused"
        yield from (f"    {line}" for line in stage_lines(plan))
    yield f"  inputs  {len(plan.pins)} pinned"
    yield from (f"    {line}" for line in pinned_lines(plan.pins))
    yield from (f"  remark  {remark}" for remark in plan.remarks)


def stage_lines(plan: Plan) -> Iterator[str]:
    """Which stages of a machine's disk exist, and why the rest is made: verdict, stage, reason."""
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
