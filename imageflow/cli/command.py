"""What our commands share: no slow look-ups, text for people by default, cliff's formats for scripts."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import cliff._argparse
import cliff.command
import cliff.display
import cliff.lister
import cliff.show

from imageflow.errors import BadInput

if TYPE_CHECKING:
    from imageflow.cli.app import App

TEXT = "text"


class _Help(cliff._argparse.SmartHelpFormatter):
    """Keeps the paragraphs of a description apart."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(textwrap.fill(" ".join(p.split()), width, initial_indent=indent) for p in paragraphs)


class Command(cliff.command.Command):
    """A command that writes what it likes."""

    app: App

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = _Help
        parser.allow_abbrev = False  # an abbreviation in a script breaks when an option is added
        return parser

    def get_epilog(self) -> str:
        """Cliff would look through every installed distribution for the name of a plugin."""
        return self._epilog or ""


class _Formatted(Command, cliff.display.DisplayCommandBase[Any]):
    """A command with -f and -c; `exit_code` is what it ends with when nothing is raised."""

    exit_code = 0
    columns: tuple[str, ...] = ()  # of a command that changes something: a wrong -c is found before that

    def run(self, parsed_args: argparse.Namespace) -> int:
        if self.columns:
            self._generate_columns_and_selector(parsed_args, self.columns)
        super().run(parsed_args)
        return self.exit_code

    def _generate_columns_and_selector(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str]
    ) -> tuple[list[str], list[bool] | None]:
        try:
            return super()._generate_columns_and_selector(parsed_args, column_names)
        except ValueError as error:
            wanted = ", ".join(parsed_args.columns)
            raise BadInput(f"there is no column {wanted}", hint=f"columns: {', '.join(column_names)}") from error


class Lister(_Formatted, cliff.lister.Lister):
    """A command whose result is rows."""

    nothing = ""  # said to people when there are no rows

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Iterable[Sequence[Any]]
    ) -> int:
        rows = list(data)
        self._generate_columns_and_selector(parsed_args, column_names)  # a wrong -c is wrong without rows too
        if not rows and parsed_args.formatter == "table" and not parsed_args.print_empty:
            self.app.note(f"({self.nothing})")
            return 0
        return super().produce_output(parsed_args, column_names, rows)


class ShowOne(_Formatted, cliff.show.ShowOne):
    """A command whose result is one thing."""


class _TextByDefault(_Formatted):
    """Text where no format is asked for: `take_action` leaves on self what `text` needs."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        for action in parser._actions:
            if action.dest == "formatter":
                action.choices = [TEXT, *(action.choices or ())]
                action.default = TEXT
                action.help = "the output format, defaults to text for people"
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.formatter == TEXT and parsed_args.columns:
            parsed_args.formatter = "table"  # who names columns wants columns
        if parsed_args.formatter != TEXT:
            return super().run(parsed_args)
        self.take_action(parsed_args)
        self.app.stdout.writelines(f"{line}\n" for line in self.text())
        return self.exit_code

    def text(self) -> Iterable[str]:
        """The lines that a person reads."""
        raise NotImplementedError


class TextLister(_TextByDefault, Lister):
    """Rows for scripts, text for people."""


class TextShowOne(_TextByDefault, ShowOne):
    """One thing for scripts, text for people."""
