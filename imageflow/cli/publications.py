"""`imageflow publication …`: which version is in which target, and publishing it again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.builds import count
from imageflow.cli.command import Lister, ShowOne
from imageflow.cli.images import REF
from imageflow.cli.present import Age, Digest, Optional
from imageflow.model import PublicationState

if TYPE_CHECKING:
    from imageflow.model import Publication

_STATES = [state.value for state in PublicationState]
_COLUMNS = ("image", "digest", "target", "wish", "state", "since", "attempts", "path", "error")


def _rows(found: Iterable[Publication]) -> list[tuple[Any, ...]]:
    return [
        (
            one.image,
            Digest(one.digest),
            one.target,
            one.wish,
            one.state,
            Age(one.done if one.done is not None and one.state is PublicationState.STORED else one.since),
            one.attempts,
            Optional(one.path),
            Optional(one.error),
        )
        for one in found
    ]


class List(Lister):
    """List which image versions are in, or on their way to or from, which publication targets

    Targets that are no longer configured are shown too; nothing is published to them.
    """

    nothing = "nothing is published outside the store: see [publish] targets"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--image", metavar="NAME", help="only versions of this image")
        parser.add_argument("--target", metavar="NAME", help="only those in this target")
        parser.add_argument("--state", metavar="STATE", choices=_STATES, help=f"only those: {', '.join(_STATES)}")
        parser.add_argument("--limit", metavar="N", type=count, default=50, help="at most N (default: 50)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        if parsed_args.image or parsed_args.target or parsed_args.state:
            self.nothing = "no such publications"
        states = [PublicationState(parsed_args.state)] if parsed_args.state else ()
        with self.app.service() as service:
            found = service.publications.select(
                image=parsed_args.image, target=parsed_args.target, states=states, limit=parsed_args.limit
            )
        return _COLUMNS, _rows(found)


class Retry(Lister):
    """Publish again what failed, is missing or waits; a version already in its target is not uploaded twice

    With IMAGE, that version goes to every target, also to one configured after it was built. With only --target,
    the newest version of each image that was never published there goes there, too.
    """

    columns = _COLUMNS
    nothing = "nothing to publish again"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("image", metavar="IMAGE", nargs="?", help=REF)
        parser.add_argument("--target", metavar="NAME", help="only to this target")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            found = service.publications.retry(parsed_args.image, target=parsed_args.target)
            serving = service.conductors()
        if found and not serving:
            self.app.note("nothing is serving: 'imageflow serve' publishes")
        return _COLUMNS, _rows(found)


class Forget(ShowOne):
    """Forget what was published to a target that is no longer configured; its contents stay"""

    columns = ("target", "forgotten")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("target", metavar="TARGET", help="its name")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        with self.app.service() as service:
            number = service.publications.forget(parsed_args.target)
        return self.columns, (parsed_args.target, number)
