"""`imageflow token …`: tokens for the HTTP interface."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from imageflow.cli.command import Lister, ShowOne, TextShowOne
from imageflow.cli.present import Age, iso

if TYPE_CHECKING:
    from imageflow.persistence.tokens import ApiToken

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_COLUMNS = ("id", "name", "role", "project", "state", "created", "expires", "last_used")


class _Expiry(FormattableColumn[Any]):
    """When a token expires; None: never."""

    def human_readable(self) -> str:
        return iso(self._value) or "never"

    def machine_readable(self) -> str | None:
        return iso(self._value)


def life(text: str) -> float:
    """For argparse: 12h, 30d or 8w in seconds."""
    match = re.fullmatch(r"([0-9]{1,4})([hdw])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 12h, 30d or 8w")
    return int(match[1]) * _UNITS[match[2]]


def _row(one: ApiToken) -> tuple[Any, ...]:
    state = one.state(time.time())
    return one.id, one.name, one.role, one.project, state, Age(one.created), _Expiry(one.expires), Age(one.last_used)


class Create(TextShowOne):
    """Make a token for the HTTP interface, and print it: it is never shown again

    A client sends it as X-Auth-Token, or as Bearer token in Authorization. It may do what its role may, in its project.
    """

    columns = ("token", "id", "name", "role", "project", "expires")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        from imageflow.access import DEFAULT_PROJECT, ROLES

        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="what it is for")
        parser.add_argument("--role", required=True, choices=ROLES, help=f"one of {', '.join(ROLES)}")
        parser.add_argument("--project", metavar="PROJECT", default=DEFAULT_PROJECT, help=f"default: {DEFAULT_PROJECT}")
        ends = parser.add_mutually_exclusive_group()
        ends.add_argument("--expires", metavar="TIME", type=life, help="after 12h, 30d or 8w (default: 90d)")
        ends.add_argument("--never", action="store_true", help="it does not expire: revoke it when it is not used")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        from imageflow.access.tokens import LIFE

        seconds = None if parsed_args.never else parsed_args.expires or LIFE
        with self.app.service() as service:
            self._token, self._made = service.tokens.create(
                parsed_args.name, parsed_args.role, project=parsed_args.project, life=seconds
            )
        made = self._made
        return self.columns, (self._token, made.id, made.name, made.role, made.project, iso(made.expires))

    def text(self) -> Iterable[str]:
        made = self._made
        until = f"until {iso(made.expires)}" if made.expires else "for ever"
        self.app.note(f"token {made.id}: {made.role} of {made.project} {until}; keep it, it is not shown again")
        return [self._token]


class List(Lister):
    """List the tokens of the HTTP interface, without what is secret of them"""

    nothing = "no tokens: 'imageflow token create' makes one"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            return _COLUMNS, [_row(one) for one in service.tokens.select()]


class Revoke(ShowOne):
    """Revoke a token: it is refused from now on, by servers that just used it seconds later"""

    columns = _COLUMNS

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("id", metavar="ID", help="of 'imageflow token list'")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        with self.app.service() as service:
            return self.columns, _row(service.tokens.revoke(parsed_args.id))
