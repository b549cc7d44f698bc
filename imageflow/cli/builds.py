"""`imageflow build …`: inspect builds, and resume, abort or cancel them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Command, Lister, ShowOne, TextShowOne
from imageflow.cli.present import (
    Age,
    Clipped,
    Digest,
    LinesColumn,
    Optional,
    Silent,
    Took,
    ago,
    clip,
    duration,
    iso,
    mark,
)
from imageflow.errors import BadInput, NotFound
from imageflow.model import BuildState

if TYPE_CHECKING:
    from imageflow.model import Build, Step
    from imageflow.service import Service


_MOST = 2**31 - 1  # the largest LIMIT that every database accepts


def named(service: Service, build_id: str | None) -> Build:
    """The build with this id or id prefix; the newest one when none is named."""
    if build_id is not None:
        return service.build(build_id)
    newest = service.builds(limit=1)
    if not newest:
        raise NotFound("there is no build yet", hint="imageflow build create FILE")
    return service.build(newest[0].id)


def add_build(parser: argparse.ArgumentParser, *, optional: bool) -> None:
    """The ID argument; optional where using the newest build does no harm."""
    if optional:
        parser.add_argument(
            "build", metavar="ID", nargs="?", help="the build, or the first digits of its id (default: the newest)"
        )
    else:
        parser.add_argument("build", metavar="ID", help="the build, or the first digits of its id")


def seconds_taken(build: Build) -> float | None:
    """From the build's first step to its end, or to now."""
    if build.started is None:
        return None
    return (build.ended or build.paused or time.time()) - build.started


class List(Lister):
    """List builds, the newest first"""

    nothing = "no builds"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--image", metavar="IMAGE", help="only builds of this image")
        parser.add_argument(
            "--state",
            metavar="STATE",
            dest="states",
            action="append",
            default=[],
            choices=[state.value for state in BuildState],
            help=f"only builds in this state ({', '.join(BuildState)}); can be repeated",
        )
        parser.add_argument("--limit", metavar="N", type=count, default=50, help="at most N builds (default: 50)")
        parser.add_argument("--long", action="store_true", help="more columns; json and yaml always have them")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        states = [BuildState(state) for state in parsed_args.states]
        with self.app.service() as service:
            builds = service.builds(image=parsed_args.image, states=states, limit=parsed_args.limit)
            silent = service.silent(builds)
        columns: tuple[str, ...] = ("id", "image", "state", "step", "created", "took")
        everything = parsed_args.long or parsed_args.columns or parsed_args.formatter in ("json", "yaml")
        if everything:  # json and yaml are not limited to what fits a terminal
            columns += ("digest", "reason", "error", "key", "method", "forced", "host", "conductor", "silent")
        return columns, [_row(build, everything, silent.get(build.id)) for build in builds]


def count(text: str) -> int:
    """Argument type: a whole number from 1 up."""
    if not text.isdecimal() or not text.isascii() or int(text[:20]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return min(int(text[:20]), _MOST)


def _row(build: Build, everything: bool, silent: str | None) -> tuple[Any, ...]:
    row: tuple[Any, ...] = (
        build.id,
        build.image,
        Silent(str(build.state), silent),
        Optional(build.step if not build.state.ended else None),
        Age(build.created),
        Took(seconds_taken(build)),
    )
    if everything:
        row += (
            Digest(build.digest),
            Clipped(build.reason),
            Clipped(build.error),
            Digest(build.key),
            build.method,
            build.forced,
            Optional(build.host),
            Optional(build.conductor),
            Optional(silent),
        )
    return row


class Show(ShowOne):
    """Show a build: its state, its steps, what went wrong and what to do next"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=True)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            build = named(service, parsed_args.build)
            steps = service.steps(build.id)
            remaining = service.estimate(build.id).remaining if build.state is BuildState.RUNNING else None
            log = service.log_path(build.id)
            waits = service.waits(build.id)
            commands = [*ways_in(service, build), *ways_on(build)]
        rows = {
            "id": build.id,
            "image": build.image,
            "state": str(build.state),
            "reason": build.reason,
            "error": Optional(build.error),
            "hint": Optional(build.hint),
            "waits": Optional(waits),
            "next": LinesColumn(commands, commands),
            "steps": LinesColumn([_as_json(step) for step in steps], [step_line(step) for step in steps]),
            "created": Age(build.created),
            "took": Took(seconds_taken(build)),
            "remaining": Took(remaining),
            "method": build.method,
            "forced": build.forced,
            "wish": Optional(build.wish and str(build.wish)),
            "digest": Optional(build.digest),
            "key": build.key,
            "host": Optional(build.host),
            "conductor": Optional(build.conductor),
            "log": str(log),
            "folder": build.folder,
        }
        return self.dict2columns(rows)


def ways_in(service: Service, build: Build) -> list[str]:
    """The commands that log into the machines of a paused build."""
    if build.state is not BuildState.PAUSED or "machine" not in build.recipe:
        return []
    options = {"main": "", "verify": " --verify"}
    return [f"imageflow build ssh {build.id}{options[role]}" for role in service.machines.running(build)]


def ways_on(build: Build) -> list[str]:
    """The commands that an operator would use next."""
    if build.state is BuildState.PAUSED:
        return [f"imageflow build resume {build.id} --wait", f"imageflow build abort {build.id} --wait"]
    if build.state is BuildState.SUCCEEDED and build.digest:
        return [f"imageflow image show {build.digest[:12]}"]
    if not build.state.ended:
        return [f"imageflow build log {build.id} --follow", f"imageflow build cancel {build.id}"]
    return []


def step_line(step: Step) -> str:
    """A step in one line: mark, name, duration, and the phase or the error."""
    parts = [f"{mark(step.state)} {step.name}"]
    if step.attempt > 1:
        parts.append(f"(attempt {step.attempt})")
    if step.started is not None and step.ended is not None:
        parts.append(duration(step.ended - step.started))
    elif step.started is not None:
        parts.append(f"{step.progress:.0%} {step.message or ''}".rstrip())
    if step.error:
        parts.append(f"- {clip(step.error, 100)}")
    return " ".join(parts)


def _as_json(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "attempt": step.attempt,
        "state": str(step.state),
        "progress": round(step.progress, 4),
        "message": step.message,
        "started": iso(step.started),
        "ended": iso(step.ended),
        "seconds": None if step.started is None or step.ended is None else round(step.ended - step.started, 3),
        "error": step.error,
        "conductor": step.conductor,
    }


class Why(TextShowOne):
    """Say why a build was made: which events asked for it, and which inputs differ from the version before"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=True)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.cli.recipes import pinned_lines

        with self.app.service() as service:
            build = self._build = named(service, parsed_args.build)
            self._events = service.events.of_build(build.id)
        self._pins = list(pinned_lines(build.pins))
        return self.dict2columns(
            {
                "id": build.id,
                "image": build.image,
                "reason": build.reason,
                "events": LinesColumn(
                    [{"event": event.seq, "type": event.type, "reason": one.reason} for event, one in self._events],
                    [f"{event.seq} {event.type}" for event, _reaction in self._events],
                ),
                "forced": build.forced,
                "created": Age(build.created),
                "key": build.key,
                "pins": LinesColumn(dict(build.pins), self._pins),
            }
        )

    def text(self) -> Iterable[str]:
        build = self._build
        yield f"build {build.id} of {build.image}, {ago(build.created)}, {build.state}"
        yield f"  why     {build.reason}"
        for event, _reaction in self._events:
            yield f"  event   {event.seq}: {event.type} from {event.source}, {ago(event.received)}"
        yield f"  key     {build.key}"
        yield f"  inputs  {len(build.pins)} pinned"
        yield from (f"    {line}" for line in self._pins)


class _Change(ShowOne):
    """Change a build's course; with --wait, follow it to the end."""

    columns = ("id", "image", "state", "wish", "error", "hint")
    done = BuildState.SUCCEEDED  # the state a build ends in when all goes well

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=False)
        parser.add_argument(
            "--wait", action="store_true", help="wait until it is done, and run it if nothing is serving"
        )
        return parser

    def ask(self, service: Service, build_id: str) -> Build:
        """Store the wish."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.cli.wait import exit_code, see_through, tell_if_nothing_serves

        with self.app.service(builds=parsed_args.wait) as service:
            if not parsed_args.build:
                raise BadInput("which build?", hint="'imageflow build list' shows them")
            build = self.ask(service, parsed_args.build)
            if parsed_args.wait:
                [build] = see_through(self.app, service, [build])
                self.exit_code = exit_code([build], self.done)
            elif build.state in (BuildState.QUEUED, BuildState.REVERTING):
                tell_if_nothing_serves(self.app, service)
        return self.dict2columns(
            {
                "id": build.id,
                "image": build.image,
                "state": str(build.state),
                "wish": Optional(build.wish and str(build.wish)),
                "error": Optional(build.error),
                "hint": Optional(build.hint),
            }
        )


class Resume(_Change):
    """Let a paused build go on from the step that failed"""

    def ask(self, service: Service, build_id: str) -> Build:
        return service.resume(build_id)


class Abort(_Change):
    """Give a build up: everything it made is removed"""

    done = BuildState.ABORTED

    def ask(self, service: Service, build_id: str) -> Build:
        return service.abort(build_id)


class Cancel(_Change):
    """Stop a build, its running step too: everything it made is removed"""

    done = BuildState.CANCELLED

    def ask(self, service: Service, build_id: str) -> Build:
        return service.cancel(build_id)


class Log(Command):
    """Print the log of a build; with --follow, as it grows until the build ends"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=True)
        parser.add_argument("--follow", action="store_true", help="go on until the build ends, also across takeovers")
        parser.add_argument("-n", "--lines", metavar="N", type=count, help="begin with the last N lines")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from imageflow.cli.follow import copy_log

        with self.app.service() as service:
            build = named(service, parsed_args.build)
            copy_log(self.app, service, build, follow=parsed_args.follow, lines=parsed_args.lines)
