"""`imageflow recipe add|remove|list|graph`: the recipes that events can build."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Command, Lister, TextLister, TextShowOne
from imageflow.cli.present import Age, Digest, Lines, Optional
from imageflow.cli.recipes import add_settings
from imageflow.errors import BadInput

if TYPE_CHECKING:
    from imageflow.model import Registered
    from imageflow.registry import Registration


class Add(TextShowOne):
    """Register a recipe, or its next version: from now on, events can build its images

    What is registered is what the file says now; files beside it are read when a build is asked for. Nothing is built.

    With --repository, FILE is in a git repository, or a folder there: each *.yaml in it is a recipe then. It is followed:
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
            raise BadInput("--set can't be used with --repository", hint="write it in the recipe, where it is followed")
        if parsed_args.ref and not url:
            raise BadInput("--ref says nothing without --repository", hint="--repository URL")
        with self.app.service() as service:
            if url:
                ref = parsed_args.ref or "main"
                self._done = service.hosted.add(parsed_args.file, url, ref, parsed_args.name)
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
        yield f"{done.recipe.name}: {done.verdict}, version {done.recipe.version} ({', '.join(done.images)})"
        for stranger in done.strangers:
            yield f"  no registered recipe has {stranger}: it is not rebuilt by events, and nobody waits for it"
        quiet = [image["name"] for image in done.recipe.images if not image.get("on")]
        if quiet:
            yield f"  no event asks for {', '.join(quiet)}: without 'on:'"


class Remove(TextLister):
    """Let events no longer build a recipe's images, or those of a followed folder; what is built, or being built, stays"""

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
        return [f"{self._name}: removed; no event builds {', '.join(self._images) or 'anything of it'} any more"]


class List(Lister):
    """List the registered recipes; with --all, every version there was"""

    nothing = "no recipes are registered: imageflow recipe add FILE"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("recipe", metavar="NAME", nargs="?", help="only this recipe")
        parser.add_argument("--all", action="store_true", help="every version there was")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            found = service.recipes.registered(parsed_args.recipe, everything=parsed_args.all)
            problems = service.hosted.problems()
        columns = ("recipe", "version", "images", "triggers", "registered", "digest", "from", "current", "problem")
        return columns, [_row(recipe, problems) for recipe in found]


def _row(recipe: Registered, problems: Mapping[str, str]) -> tuple[Any, ...]:
    names = [str(image["name"]) for image in recipe.images]
    triggers = {str(image["name"]): image.get("on") or [] for image in recipe.images}
    return (
        recipe.name,
        recipe.version,
        Lines(names, [", ".join(names)]),
        Lines(triggers, [str(sum(map(len, triggers.values())))]),
        Age(recipe.created),
        Digest(recipe.digest),
        Optional(_origin(recipe)),
        recipe.current,
        Optional(_problem(recipe, problems)),
    )


def _problem(recipe: Registered, problems: Mapping[str, str]) -> str | None:
    """Why the newest commit of a recipe that is followed is not what is registered."""
    if not recipe.current or recipe.repository is None:
        return None
    return problems.get(recipe.name) or problems.get(recipe.name.rpartition("/")[0])


def _origin(recipe: Registered) -> str:
    """Where its file is."""
    if recipe.repository is None:
        return recipe.path
    return "{url} {ref} {path} @ {commit:.12}".format(**recipe.repository)


class Graph(Command):
    """Show which registered images stand on which: a new version of one rebuilds those below it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "-f", "--format", choices=["text", "dot", "json"], default="text", help="default: text; dot is for graphviz"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        import json

        from imageflow import lineage

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
            self.app.stdout.write(drawn.rstrip("\n") + "\n")
