"""`imageflow layer …`: the frozen disks that builds start from, and removing unused ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Lister
from imageflow.cli.present import Age, Clipped, Digest, LinesColumn, Size

if TYPE_CHECKING:
    from imageflow.compute import Layer

_COLUMNS = ("layer", "title", "size", "parent", "used", "created", "build", "held by")


class List(Lister):
    """List the layers: contents, size, parent layer, and the builds that hold them"""

    nothing = "no layers"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            return _COLUMNS, [_row(layer) for layer in service.machines.layers()]


class Collect(Lister):
    """Remove layers that have been unused for long, or that there is no room for, as 'serve' does by itself

    The limits are [layers] max_age and max_size. A layer that a build holds is kept, and so are the layers below it.
    """

    columns = _COLUMNS
    nothing = "nothing to remove"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--all", action="store_true", help="every layer that no build needs now")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            removed = service.collect_layers(everything=parsed_args.all)
        return self.columns, [_row(layer) for layer in removed]


def _row(layer: Layer) -> tuple[Any, ...]:
    return (
        Digest(layer.key),
        Clipped(layer.title),
        Size(layer.size),
        Digest(layer.parent),
        Age(layer.used),
        Age(layer.created),
        layer.build_id,
        LinesColumn(list(layer.holders), [" ".join(layer.holders)]),
    )
