"""`imageflow rebuild …`: the images that events want rebuilt and that wait for their turn."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Lister, ShowOne
from imageflow.cli.present import Age, Optional

if TYPE_CHECKING:
    from imageflow.model import Rebuild

_COLUMNS = ("image", "asked", "events", "why it waits")


class List(Lister):
    """List the images that wait to be rebuilt, and why"""

    nothing = "nothing waits to be rebuilt"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            return _COLUMNS, [_row(rebuild) for rebuild in service.events.rebuilds()]


def _row(rebuild: Rebuild) -> tuple[Any, ...]:
    why = "released: it is next" if rebuild.forced else rebuild.held
    return rebuild.image, Age(rebuild.asked), rebuild.events, Optional(why)


class _One(ShowOne):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("image", metavar="IMAGE", help="its name, from 'imageflow rebuild list'")
        return parser


class Release(_One):
    """Rebuild an image at once, whatever it waits for"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            return _COLUMNS, _row(service.events.release(parsed_args.image))


class Drop(_One):
    """Drop the rebuild that events requested for an image"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            return ("image", "events"), (parsed_args.image, service.events.drop(parsed_args.image))
