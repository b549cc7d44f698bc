"""`imageflow request …` and `imageflow catalog list`: images by what should be in them, and who uses them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.cli.command import Command, Lister, ShowOne
from imageflow.cli.present import Age, Clipped, Digest, Optional, Pairs
from imageflow.errors import BadInput

if TYPE_CHECKING:
    from imageflow.wants.requests import Asked
    from imageflow.wants.want import Want


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", metavar="PROJECT", help="whose request it is (default: [api] project)")


def _custom_file(text: str) -> tuple[str, str]:
    path, equals, source = text.partition("=")
    if not equals or not path or not source:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=FILE, such as /etc/motd=motd.txt")
    return path, source


class _One(ShowOne):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="of the request")
        _add_project(parser)
        return parser

    def describe(self, asked: Asked) -> tuple[Sequence[str], Iterable[Any]]:
        """All that is known about a request."""
        request, version = asked.request, asked.version
        return self.dict2columns(
            {
                "name": request.name,
                "project": request.project,
                "state": str(asked.state),
                "reason": asked.reason,
                "hint": Optional(asked.hint or None),
                "image": request.image,
                "wanted": Pairs({key: _short(value) for key, value in (request.wanted or {}).items()}),
                "build": str(request.policy),
                "build_id": Optional(request.build_id),
                "digest": Optional(version and version.digest),
                "path": Optional(version and version.path),
                "user": Pairs(dict(request.user)),
                "created": Age(request.created),
                "changed": Age(request.changed),
            }
        )


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ", ".join(one["path"] if isinstance(one, dict) else one for one in value)


class Create(_One):
    """Ask for an image by what should be in it, under a name of your own

    What is built already, or being built, is taken. While the request is there, its image is not removed. Asking
    again is the same request. With --wait the exit code is 0 when the image is there, 1 when its build failed, 3 when
    it is paused.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--os", metavar="OS", help="an entry of 'imageflow catalog list'")
        what.add_argument("--image", metavar="IMAGE", help="an image of a registered recipe instead")
        parser.add_argument("--package", metavar="NAME", action="append", default=[], help="may be repeated")
        parser.add_argument("--pip", metavar="REQUIREMENT", action="append", default=[], help="may be repeated")
        parser.add_argument(
            "--file",
            metavar="PATH=FILE",
            type=_custom_file,
            action="append",
            default=[],
            help="put the text of FILE at PATH in the image; it is executable there if it is here; may be repeated",
        )
        parser.add_argument("--config-system", metavar="NAME", help="with --recipe: what applies it, such as chef")
        parser.add_argument("--recipe", metavar="NAME", help="a recipe of it that the catalog's entry has")
        parser.add_argument("--never-build", action="store_true", help="take only what is built already")
        parser.add_argument(
            "--wait", action="store_true", help="wait until it is built; builds here if nothing is serving"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.wants.requests import BuildPolicy, ImageRequest

        want = _want(parsed_args)
        policy = BuildPolicy.NEVER if parsed_args.never_build else BuildPolicy.IF_MISSING
        with self.app.service(builds=parsed_args.wait) as service:
            project = parsed_args.project or service.config.api.project
            request = ImageRequest(project, parsed_args.name, parsed_args.image or "", policy)
            asked = service.requests.put(request, want, f"requested as {request.name}")
            if parsed_args.wait and asked.build is not None and asked.version is None:
                from imageflow.cli.wait import exit_code, see_through

                self.exit_code = exit_code(see_through(self.app, service, [asked.build]))
                asked = service.requests.get(project, request.name)
            elif asked.state == "building":
                from imageflow.cli.wait import tell_if_nothing_serves

                tell_if_nothing_serves(self.app, service)
        if asked.state not in ("ready", "building") and not self.exit_code:
            self.exit_code = 3 if asked.state == "paused" else 1
        return self.describe(asked)


def _want(parsed_args: argparse.Namespace) -> Want | None:
    from pydantic import ValidationError

    from imageflow.wants.want import CustomFile, Want

    given = {
        "packages": parsed_args.package,
        "pip_packages": parsed_args.pip,
        "config_system": parsed_args.config_system,
        "recipe": parsed_args.recipe,
    }
    if parsed_args.os is None:
        if any(given.values()) or parsed_args.file:
            raise BadInput("an image of a recipe has what its recipe says", hint="use --os, or change the recipe")
        return None
    try:
        files = [
            CustomFile(path=path, content=_text(source), mode="0755" if os.access(source, os.X_OK) else "0644")
            for path, source in parsed_args.file
        ]
        return Want(os=parsed_args.os, custom_files=files, **given)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise BadInput(
            f"{place}: {wrong['msg']}".removeprefix(": "), hint=wrong.get("ctx", {}).get("hint", "")
        ) from None


def _text(source: str) -> str:
    from imageflow.host.text import read

    try:
        return read(Path(source).read_bytes()).text
    except OSError as error:
        raise BadInput(f"{source}: {error.strerror}", hint="--file PATH=FILE") from None


class Show(_One):
    """Show a request, and what has become of it"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            project = parsed_args.project or service.config.api.project
            return self.describe(service.requests.get(project, parsed_args.name))


class List(Lister):
    """List the requests of a project: which images are in use, and by whom"""

    nothing = "no requests: 'imageflow request create' and the API make them"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_project(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            found = service.requests.select(parsed_args.project or service.config.api.project)
        columns = ("name", "state", "image", "digest", "build", "changed", "user", "reason")
        return columns, [
            (
                one.request.name,
                str(one.state),
                one.request.image,
                Digest(one.version and one.version.digest),
                Optional(one.request.build_id),
                Age(one.request.changed),
                Optional(" ".join(f"{key}={value}" for key, value in one.request.user.items()) or None),
                Clipped(one.reason),
            )
            for one in found
        ]


class Delete(Command):
    """Take a request back: its image is no longer held, and stays until something removes it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="of the request")
        _add_project(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        with self.app.service() as service:
            service.requests.delete(parsed_args.project or service.config.api.project, parsed_args.name)


class Catalog(Lister):
    """List what may be asked for by its content: the entries in [catalog] path"""

    nothing = "the catalog is empty: [catalog] path has a file OS.yaml for each os; see doc/api.md"

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        with self.app.service() as service:
            entries, wrong = service.catalog.entries()
        for error in wrong:
            self.app.note(f"imageflow: {error}")
        self.exit_code = 2 if wrong else 0
        rows = [
            (
                entry.os,
                entry.method,
                ", ".join(entry.takes),
                "; ".join(f"{system}: {', '.join(names)}" for system, names in entry.names.items()),
                entry.description,
            )
            for entry in entries
        ]
        return ("os", "method", "takes", "recipes", "description"), rows
