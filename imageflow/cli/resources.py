"""`imageflow resource …`: what builds made outside the store, and removing what ended builds left."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from imageflow.cli.command import Lister
from imageflow.cli.present import Age, Optional


class List(Lister):
    """List what builds made and have not removed yet: folders, mounts, loop devices, machines, uploads"""

    nothing = "nothing is left over"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--all", action="store_true", help="also what is already removed")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            resources = service.resources(everything=parsed_args.all)
        columns: tuple[str, ...] = ("build", "kind", "name", "host", "opened", "error")
        rows: list[tuple[Any, ...]] = [
            (thing.build_id, str(thing.kind), thing.name, thing.host, Age(thing.opened), Optional(thing.error))
            for thing in resources
        ]
        if parsed_args.all:
            columns += ("closed",)
            rows = [(*row, Age(thing.closed)) for row, thing in zip(rows, resources, strict=True)]
        return columns, rows


class Reap(Lister):
    """Remove what ended builds left on this machine, as 'serve' does by itself

    Exit code 1 when something could not be removed; the reason is in the row.
    """

    columns = ("build", "kind", "name", "removed", "error")
    nothing = "nothing to remove"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            reaped = service.reap()
        if any(why is not None for _, why in reaped):
            self.exit_code = 1
        rows = [(thing.build_id, str(thing.kind), thing.name, why is None, Optional(why)) for thing, why in reaped]
        return self.columns, rows
