"""`imageflow outbox …`: announcements and their deliveries, and sending them again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from imageflow.cli.builds import count
from imageflow.cli.command import Lister, ShowOne
from imageflow.cli.present import Age, Optional
from imageflow.errors import BadInput


class List(Lister):
    """List announcements and the state of each delivery: waiting, sent, dead"""

    nothing = "no announcements: see [announce] targets"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--dead", action="store_true", help="only dead letters: deliveries that were given up")
        parser.add_argument("--target", metavar="NAME", help="only those to notifications, http or amqp")
        parser.add_argument("--limit", metavar="N", type=count, default=50, help="at most N (default: 50)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        if parsed_args.dead:
            self.nothing = "no dead letters"
        with self.app.service() as service:
            found = service.outbox.deliveries(dead=parsed_args.dead, target=parsed_args.target, limit=parsed_args.limit)
        columns = ("id", "type", "build", "target", "state", "time", "attempts", "error")
        rows = [
            (
                one.announcement.id,
                one.announcement.type,
                one.announcement.build_id,
                one.target,
                one.state,
                Age(one.announcement.time),
                one.attempts,
                Optional(one.error),
            )
            for one in found
        ]
        return columns, rows


class Replay(ShowOne):
    """Send an announcement again, or all dead letters, with the same id as before

    A target recognises by the id what it has already seen. Announcements sent since then are not sent again, so
    a replayed one comes after later ones of its build.
    """

    columns = ("replayed",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", nargs="?", metavar="ID", help="of an announcement, or its first digits")
        parser.add_argument("--dead", action="store_true", help="all dead letters")
        parser.add_argument("--target", metavar="NAME", help="only to notifications, http or amqp")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        if (parsed_args.id is None) is not parsed_args.dead:
            raise BadInput("either an announcement's ID or --dead is needed", hint="see 'imageflow outbox list --dead'")
        with self.app.service() as service:
            number = service.outbox.replay(parsed_args.id, target=parsed_args.target)
        return self.columns, (number,)
