"""`imageflow event …`: events that arrived and their outcomes, what an event would do, and sending one by hand."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.builds import count
from imageflow.cli.command import Lister, TextLister, TextShowOne
from imageflow.cli.present import Age, Clipped, LinesColumn, Optional, iso
from imageflow.errors import BadInput
from imageflow.model import Event, Reaction, Verdict

if TYPE_CHECKING:
    from imageflow.rebuilds.operations import Consequence, Simulation

WAITING = "waiting"


class List(Lister):
    """List events and their outcomes, the newest first"""

    nothing = "no events"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--type", metavar="TYPE", help="only events of this type")
        parser.add_argument(
            "--verdict",
            choices=[WAITING, *(v.value for v in Verdict)],
            help="only events with this verdict, or none yet",
        )
        parser.add_argument("--limit", metavar="N", type=count, default=50, help="at most N events (default: 50)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        waiting = parsed_args.verdict == WAITING
        verdict = Verdict(parsed_args.verdict) if parsed_args.verdict and not waiting else None
        with self.app.service() as service:
            found = service.events.select(
                type=parsed_args.type, verdict=verdict, waiting=waiting, limit=parsed_args.limit
            )
        columns = ("event", "type", "subject", "source", "received", "verdict", "reason")
        return columns, [
            (
                event.seq,
                event.type,
                Optional(event.subject),
                Clipped(event.source),
                Age(event.received),
                event.verdict.value if event.verdict else WAITING,
                Clipped(event.reason),
            )
            for event in found
        ]


class Refused(Lister):
    """Count refused requests: nothing else of them is kept"""

    nothing = "nothing was refused"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            rows = service.events.refusals()
        return ("endpoint", "reason", "count", "last"), [(*row[:3], Age(row[3])) for row in rows]


class Token(TextShowOne):
    """Print the token that POST /v1/events takes on this machine; it is made if there is none yet

    curl -H "Authorization: Bearer $(imageflow event token)" … sends an event with it.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.events import door

        config = self.app.config()
        self._token = door.token(config)
        return ("token", "place"), (self._token, door.place(config))

    def text(self) -> Iterable[str]:
        return [self._token]


def add_event(parser: argparse.ArgumentParser) -> None:
    """The EVENT argument."""
    parser.add_argument("event", metavar="EVENT", type=count, help="its number, from 'imageflow event list'")


class Show(TextShowOne):
    """Show an event: what is in it, its verdict, and what each image made of it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_event(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            self._event, self._reactions = service.events.get(parsed_args.event)
        event = self._event
        rows = {
            "event": event.seq,
            "type": event.type,
            "source": event.source,
            "id": event.id,
            "subject": event.subject,
            "time": iso(event.time),
            "listener": event.listener,
            "received": iso(event.received),
            "deliveries": event.deliveries,
            "verdict": event.verdict.value if event.verdict else WAITING,
            "reason": event.reason,
            "reactions": LinesColumn(
                [_reaction(one) for one in self._reactions], list(reaction_lines(self._reactions))
            ),
            "data": LinesColumn(event.data, json.dumps(event.data, indent=1, ensure_ascii=False).splitlines()),
        }
        return tuple(rows), tuple(rows.values())

    def text(self) -> Iterable[str]:
        event = self._event
        yield f"event {event.seq}: {event.type} from {event.source}"
        yield f"  id        {event.id}" + (f" (delivered {event.deliveries} times)" if event.deliveries > 1 else "")
        if event.subject:
            yield f"  subject   {event.subject}"
        yield f"  received  {iso(event.received)} by {event.listener}"
        verdict = event.verdict.value if event.verdict else "waiting: not examined yet"
        yield f"  verdict   {verdict}" + (f": {event.reason}" if event.reason else "")
        yield from (f"    {line}" for line in reaction_lines(self._reactions))
        yield "  data"
        yield from (f"    {line}" for line in json.dumps(event.data, indent=1, ensure_ascii=False).splitlines())


def _reaction(one: Reaction) -> dict[str, Any]:
    return {
        "image": one.image,
        "reason": one.reason,
        "outcome": one.outcome.value if one.outcome else WAITING,
        "build": one.build_id,
        "detail": one.detail,
    }


def reaction_lines(found: Sequence[Reaction]) -> Iterator[str]:
    """The reaction of each image to an event: image, outcome, build, reason."""
    width = max((len(one.image) for one in found), default=0)
    for one in found:
        outcome = one.outcome.value if one.outcome else "waits (imageflow rebuild list)"
        build = f" {one.build_id}" if one.build_id else ""
        yield f"{one.image:<{width}}  {outcome}{build}: {one.detail or one.reason}"


class Replay(TextShowOne):
    """Process an event again, as if it had just arrived"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_event(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            self._event = service.events.replay(parsed_args.event)
            tell_if_nothing_serves(self, service)
        return ("event", "type", "source", "id"), (
            self._event.seq,
            self._event.type,
            self._event.source,
            self._event.id,
        )

    def text(self) -> Iterable[str]:
        return [
            f"event {self._event.seq} ({self._event.type}) is processed again: imageflow event show {self._event.seq}"
        ]


def tell_if_nothing_serves(command: Any, service: Any) -> None:
    """Tell the user when nothing serves: only 'imageflow serve' examines events."""
    if not service.conductors():
        command.app.note("imageflow: nothing is serving, so nothing happens yet\n(start 'imageflow serve')")


def add_event_content(parser: argparse.ArgumentParser) -> None:
    """A CloudEvent from a file, or built from options."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="a CloudEvent as JSON, or a list of them; -: standard input"
    )
    parser.add_argument("--type", metavar="TYPE", help="type of the event, instead of a file, e.g. git.push")
    parser.add_argument("--source", metavar="URI", default="/imageflow/cli", help="its sender (default: %(default)s)")
    parser.add_argument("--id", metavar="ID", help="its id; a known id is not acted on again (default: a new one)")
    parser.add_argument("--subject", metavar="SUBJECT", help="what it is about")
    parser.add_argument(
        "--data", metavar="KEY=VALUE", action="append", default=[], help="data of the event; can be repeated"
    )


def events_of(parsed_args: argparse.Namespace) -> list[Event]:
    """The events given by the arguments; raises BadInput."""
    if (parsed_args.file is None) == (parsed_args.type is None):
        raise BadInput("an event is needed", hint="either FILE or --type TYPE")
    if parsed_args.type is not None:
        data = {}
        for given in parsed_args.data:
            key, equals, value = given.partition("=")
            if not equals:
                raise BadInput(f"--data {given!r} is not KEY=VALUE")
            data[key] = value
        id = str(uuid.uuid4()) if parsed_args.id is None else parsed_args.id
        return [Event(parsed_args.source, id, parsed_args.type, subject=parsed_args.subject, data=data)]
    from imageflow.events import cloudevent

    return cloudevent.read(_text(parsed_args.file), parsed_args.file)


def _text(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}", hint="FILE is a CloudEvent as JSON; -: standard input") from error


class Simulate(TextLister):
    """Say what an event would do, without doing it: which images, why, what would be built or reused"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_event_content(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            self._results = [(event, service.events.simulate(event)) for event in events_of(parsed_args)]
        columns = ("event", "image", "recipe", "verdict", "reason", "detail")
        return columns, [row for event, simulation in self._results for row in _rows(event, simulation)]

    def text(self) -> Iterable[str]:
        for event, simulation in self._results:
            yield f"{event.type} {event.subject or ''} from {event.source}: {simulation.verdict}".replace("  ", " ")
            if simulation.reason:
                yield f"  {simulation.reason}"
            for one in simulation.consequences:
                yield from _consequence_lines(one)


def _rows(event: Event, simulation: Simulation) -> Iterator[tuple[Any, ...]]:
    if not simulation.consequences:
        yield (
            event.id,
            Optional(None),
            Optional(None),
            simulation.verdict,
            Optional(simulation.reason),
            Optional(None),
        )
    for one in simulation.consequences:
        yield (event.id, one.image, one.recipe, one.verdict, one.reason, one.detail)


def _consequence_lines(one: Consequence) -> Iterator[str]:
    yield f"  {one.image} ({one.recipe}): {one.verdict}"
    yield f"    because  {one.reason}"
    if one.detail:
        yield f"    detail   {one.detail}"


class Send(TextLister):
    """Put an event into the inbox, as if it had been sent; 'imageflow serve' acts on it

    With --wait, the builds that it requests are followed to their end, and so are those that they request in turn.
    The exit code is then 0 when all went well, 1 when a build failed, 3 when one is paused.
    """

    columns = ("event", "source", "id", "type", "new", "verdict", "reason")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_event_content(parser)
        parser.add_argument("--wait", action="store_true", help="follow what comes of it to the end")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.cli.aftermath import Aftermath

        with self.app.service(builds=parsed_args.wait) as service:
            receipts = service.events.send(events_of(parsed_args))
            for receipt in receipts:
                new = (
                    ""
                    if receipt.new
                    else f": a duplicate, delivered {receipt.event.deliveries} times; not acted on again"
                )
                self.app.note(f"event {receipt.event.seq}: {receipt.event.type} from {receipt.event.source}{new}")
            if parsed_args.wait:
                aftermath = Aftermath(self.app, service)
                aftermath.follow([receipt.event.seq for receipt in receipts if receipt.new])
                self.exit_code = aftermath.exit_code
            else:
                tell_if_nothing_serves(self, service)
            self._found = [(*service.events.get(receipt.event.seq), receipt.new) for receipt in receipts]
        return self.columns, [
            (
                event.seq,
                event.source,
                event.id,
                event.type,
                new,
                event.verdict.value if event.verdict else WAITING,
                Optional(event.reason),
            )
            for event, _reactions, new in self._found
        ]

    def text(self) -> Iterable[str]:
        for event, reactions, _new in self._found:
            verdict = event.verdict.value if event.verdict else "waiting"
            yield f"event {event.seq}: {verdict}" + (f": {event.reason}" if event.reason else "")
            yield from (f"  {line}" for line in reaction_lines(reactions))
