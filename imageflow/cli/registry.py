"""`imageflow recipe add|remove|list|graph`: the recipes that events can build."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Command, Lister, TextLister, TextShowOne
from imageflow.cli.present import Age, Digest, LinesColumn, Optional
from imageflow.cli.recipes import add_settings
from imageflow.errors import BadInput
from imageflow.host.visible import visible

if TYPE_CHECKING:
    from imageflow.model import Registered
    from imageflow.registry.recipes import Registration


class Add(TextShowOne):
    """Register a recipe, or its next version: from now on, events can build its images

    The file is registered as it is now; files beside it are read when a build is requested. Nothing is built.

    With --repository, FILE is a file or folder in a git repository; in a folder, each *.yaml is a recipe. It is followed:
    'imageflow serve' registers new commits, and rebuilds the images that they change.
    """

    columns = ("recipe", "version", "verdict", "images", "strangers")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", help="the recipe")
        parser.add_argument(
            "--name",
            metavar="NAME",
            help="name to register it by (default: the file's; of a folder the repository's, its recipes are NAME/FILE)",
        )
        parser.add_argument("--repository", metavar="URL", help="the git repository that FILE is in")
        parser.add_argument("--ref", metavar="REF", help="the branch to follow, or refs/tags/NAME (default: main)")
        add_settings(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        url, settings = parsed_args.repository, dict(parsed_args.settings)
        if url and settings:
            raise BadInput(
                "--set can't be used with --repository", hint="write the value in the recipe that is followed"
            )
        if parsed_args.ref and not url:
            raise BadInput("--ref has no effect without --repository", hint="--repository URL")
        with self.app.service() as service:
            if url:
                ref = parsed_args.ref or "main"
                self._done = service.git_recipes.add(parsed_args.file, url, ref, parsed_args.name)
            else:
                self._done = [service.recipes.add(Path(parsed_args.file), parsed_args.name, settings)]
        one = self._done[0] if len(self._done) == 1 else None
        every = self._done
        return self.columns, (
            one.recipe.name if one else [done.recipe.name for done in every],
            one.recipe.version if one else [done.recipe.version for done in every],
            one.verdict if one else [done.verdict for done in every],
            [image for done in every for image in done.images],
            sorted({image for done in every for image in done.strangers}),
        )

    def text(self) -> Iterable[str]:
        for done in self._done:
            yield from self._told(done)

    @staticmethod
    def _told(done: Registration) -> Iterable[str]:
        from imageflow.recipe import ImageRecipe

        yield f"{done.recipe.name}: {done.verdict}, version {done.recipe.version} ({', '.join(done.images)})"
        for stranger in done.strangers:
            yield f"  no registered recipe has {stranger}: events do not rebuild it, and nothing waits for it"
        quiet = [image.name for image in map(ImageRecipe.from_json, done.recipe.images) if not image.on]
        if quiet:
            yield f"  no event asks for {', '.join(quiet)}: without 'on:'"


class Remove(TextLister):
    """Stop events from building a recipe's images, or those of a followed folder; existing versions and builds stay"""

    columns = ("image",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("recipe", metavar="NAME", help="from 'imageflow recipe list'")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            self._images = service.recipes.remove(parsed_args.recipe)
        self._name = parsed_args.recipe
        return self.columns, [(image,) for image in self._images]

    def text(self) -> Iterable[str]:
        return [f"{self._name}: removed; events no longer build {', '.join(self._images) or 'anything of it'}"]


class List(Lister):
    """List the registered recipes; with --all, every version"""

    nothing = "no recipes are registered: imageflow recipe add FILE"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("recipe", metavar="NAME", nargs="?", help="only this recipe")
        parser.add_argument("--all", action="store_true", help="every version")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            found = service.recipes.registered(parsed_args.recipe, everything=parsed_args.all)
            problems = service.git_recipes.problems()
        columns = ("recipe", "version", "images", "triggers", "registered", "digest", "from", "current", "problem")
        return columns, [_row(recipe, problems) for recipe in found]


def _row(recipe: Registered, problems: Mapping[str, str]) -> tuple[Any, ...]:
    from imageflow.recipe import ImageRecipe

    images = [ImageRecipe.from_json(image) for image in recipe.images]
    names = [image.name for image in images]
    triggers = {image.name: list(image.on) for image in images}
    return (
        recipe.name,
        recipe.version,
        LinesColumn(names, [", ".join(names)]),
        LinesColumn(triggers, [str(sum(map(len, triggers.values())))]),
        Age(recipe.created),
        Digest(recipe.digest),
        Optional(_origin(recipe)),
        recipe.current,
        Optional(_problem(recipe, problems)),
    )


def _problem(recipe: Registered, problems: Mapping[str, str]) -> str | None:
    """Why the newest commit of a followed recipe is not registered."""
    if not recipe.current or recipe.repository is None:
        return None
    return problems.get(recipe.name) or problems.get(recipe.name.rpartition("/")[0])


def _origin(recipe: Registered) -> str:
    """The location of a recipe's file."""
    if recipe.repository is None:
        return recipe.path
    return "{url} {ref} {path} @ {commit:.12}".format(**recipe.repository)


class Graph(Command):
    """Show the bases of registered images: a new version of an image rebuilds those below it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-f", "--format", choices=["text", "dot", "json"], default="text", help="default: text; dot is for graphviz"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        import json

        from imageflow.registry import lineage

        with self.app.service() as service:
            graph = service.recipes.graph()
            waiting = {one.image: one.held or "to be rebuilt" for one in service.events.rebuilds()}
        if parsed_args.format == "json":
            self.app.stdout.write(
                json.dumps({name: {"parents": list(of)} for name, of in graph.items()}, indent=2) + "\n"
            )
        elif not graph:
            self.app.note("(no recipes are registered: imageflow recipe add FILE)")
        else:
            drawn = lineage.dot(graph) if parsed_args.format == "dot" else lineage.tree(graph, waiting)
            self.app.stdout.write(visible(drawn.rstrip("\n"), lines=True) + "\n")
