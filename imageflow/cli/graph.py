"""`imageflow build graph`: the flow of a build with live states, as text, DOT or SVG."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.cli.builds import add_build, named
from imageflow.cli.command import TextLister
from imageflow.cli.present import LinesColumn, mark
from imageflow.errors import Refused

if TYPE_CHECKING:
    from imageflow.service import Graph

COLORS = {
    "pending": "#eeeeee",
    "running": "#9ecbff",
    "succeeded": "#b4e6b4",
    "failed": "#ff9d9d",
    "reverting": "#ffdf9e",
    "reverted": "#ffefcf",
    "revert-failed": "#ff6b6b",
}


class ShowGraph(TextLister):
    """Show the steps of a build, their order and their states"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=True)
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--text", dest="drawing", action="store_const", const="text", help="marks and names (default)")
        how.add_argument("--dot", dest="drawing", action="store_const", const="dot", help="as Graphviz source")
        how.add_argument(
            "--svg", dest="drawing", action="store_const", const="svg", help="as a picture (needs Graphviz)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            graph = service.graph(named(service, parsed_args.build).id)
        self._lines = {"dot": dot, "svg": svg}.get(parsed_args.drawing, as_text)(graph)
        before = _before(graph)
        rows = [
            (name, title, str(state), LinesColumn(before[name], [", ".join(before[name])]))
            for name, title, state in graph.nodes
        ]
        return ("step", "title", "state", "after"), rows

    def text(self) -> Iterable[str]:
        return self._lines


def _before(graph: Graph) -> dict[str, list[str]]:
    before: dict[str, list[str]] = {name: [] for name, _, _ in graph.nodes}
    for first, then in graph.edges:
        if first in before and then in before:
            before[then].append(first)
    return before


def as_text(graph: Graph) -> Iterator[str]:
    """One line per step, in a possible execution order."""
    build = graph.build
    yield f"{mark(build.state)} {build.image} {build.id} {build.state}"
    before = _before(graph)
    width = max((len(name) for name, _, _ in graph.nodes), default=0)
    previous: str | None = None
    for name, title, state in graph.nodes:
        waits = before[name]
        after = f"  after {', '.join(waits) or 'nothing'}" if waits != ([previous] if previous else []) else ""
        yield f"  {mark(state)} {name:<{width}}  {state:<9}  {title}{after}".rstrip()
        previous = name


def dot(graph: Graph) -> Iterator[str]:
    """Graphviz source."""
    build = graph.build
    yield f"digraph {_quoted(build.image)} {{"
    yield f"  label={_quoted(f'{build.image} {build.id}: {build.state}')}; labelloc=t; fontname=sans;"
    yield '  node [shape=box, style="rounded,filled", fontname=sans]; edge [color=gray40];'
    for name, title, state in graph.nodes:
        label = _quoted(f"{title or name}\n{state}")
        yield f"  {_quoted(name)} [label={label}, tooltip={_quoted(name)}, fillcolor={_quoted(COLORS.get(state, '#ffffff'))}];"
    for first, then in graph.edges:
        yield f"  {_quoted(first)} -> {_quoted(then)};"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def svg(graph: Graph) -> Iterator[str]:
    """The drawing by Graphviz. Raises Refused when it is not installed."""
    from imageflow.host import process

    if shutil.which("dot") is None:
        raise Refused("Graphviz is not installed", hint="install graphviz, or use --dot")
    with tempfile.TemporaryDirectory(prefix="imageflow-") as folder:
        source = Path(folder, "graph.dot")
        source.write_text("\n".join(dot(graph)))
        return iter(process.output(["dot", "-Tsvg", str(source)]).splitlines())
