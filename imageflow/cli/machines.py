"""`imageflow build ssh|console|screenshot`: access to the machine of a build, as if the user stood before it."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imageflow.cli.builds import add_build, count, named
from imageflow.cli.command import Command
from imageflow.cli.present import ago
from imageflow.errors import BadInput, ImageflowError
from imageflow.host.visible import visible

if TYPE_CHECKING:
    from imageflow.guest import Access

_OPTIONS = {
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "PreferredAuthentications": "publickey",
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "UpdateHostKeys": "no",
    "ForwardAgent": "no",
    "ClearAllForwardings": "yes",
    "ConnectTimeout": "15",
    "LogLevel": "ERROR",
}


class _OnMachine(Command):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_build(parser, optional=True)
        parser.add_argument(
            "--verify", action="store_true", help="the throw-away machine that a copy of the finished image boots on"
        )
        return parser

    def role(self, parsed_args: argparse.Namespace) -> str:
        """Which machine of the build is meant."""
        from imageflow.host.workspace import MAIN, THROW_AWAY

        return THROW_AWAY if parsed_args.verify else MAIN


class Ssh(_OnMachine):
    """Log into the machine of a build, or run a command there: build ssh ID [-- COMMAND …]

    The machine of a paused build is kept: inspect it, fix it, then resume the build. Uses the build's
    own key and its host key, and nothing from your SSH configuration. The exit code is ssh's.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "words", metavar="COMMAND", nargs="*", help="what to run there, after '--' (default: a shell)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        program = shutil.which("ssh")
        if program is None:
            raise ImageflowError("there is no program 'ssh' here", hint="install it: apt-get install openssh-client")
        with self.app.service() as service:
            access = service.machines.login(named(service, parsed_args.build), self.role(parsed_args))
        self.app.stdout.flush()
        self.app.stderr.flush()
        os.execv(program, ssh_argv(access, parsed_args.words))


def ssh_argv(access: Access, words: Sequence[str]) -> list[str]:
    """OpenSSH's command line for this machine, without any user configuration."""
    files = {"IdentityFile": access.key, "UserKnownHostsFile": access.known_hosts}
    options = _OPTIONS | {name: _literal(path) for name, path in files.items()}
    argv = ["ssh", "-F", "none", "-p", str(access.port), "-l", access.user]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    return [*argv, "--", access.host, *words]


def _literal(path: Path) -> str:
    """A path as ssh's options need it: % is an escape there, and a space ends the path."""
    return '"' + str(path).replace("%", "%%") + '"'


class Console(_OnMachine):
    """Print the serial console of a build's machine; with --follow, as it grows

    After the build has ended, prints the recording. Control characters are removed on a terminal.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--follow", action="store_true", help="go on until the build ends")
        parser.add_argument("-n", "--lines", metavar="N", type=count, help="begin with the last N lines")
        parser.add_argument("--raw", action="store_true", help="every byte unchanged, also on a terminal")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from imageflow.cli.console import copy_console

        raw = parsed_args.raw or not self.app.stdout.isatty()
        with self.app.service() as service:
            build = named(service, parsed_args.build)
            role = self.role(parsed_args)
            copy_console(self.app, service, build, role, follow=parsed_args.follow, lines=parsed_args.lines, raw=raw)


class Screenshot(_OnMachine):
    """Save the screen of a build's machine as PNG; the last recorded one when it is not running"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="FILE", nargs="?", help="default: ID.png here; '-': standard output")
        parser.add_argument("--force", action="store_true", help="replace an existing file")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.file == "-" and self.app.stdout.isatty():
            raise BadInput("a picture can't be shown on a terminal", hint="name a file, or redirect the output")
        with self.app.service() as service:
            build = named(service, parsed_args.build)
            picture = service.machines.screenshot(build, self.role(parsed_args))
        when = "now" if picture.taken is None else f"recorded {ago(picture.taken)}"
        if parsed_args.file == "-":
            self.app.stdout.buffer.write(picture.png)
            self.app.stdout.buffer.flush()
            if picture.taken is not None:
                self.app.note(f"({when}: the machine is not running)")
            return
        to = Path(parsed_args.file or f"{build.id}{'-verify' if parsed_args.verify else ''}.png")
        try:
            with to.open("wb" if parsed_args.force else "xb") as file:
                file.write(picture.png)
        except FileExistsError:
            raise BadInput(f"{to} exists already", hint="name another file, or use --force") from None
        self.app.stdout.write(f"{visible(str(to))} ({when})\n")
