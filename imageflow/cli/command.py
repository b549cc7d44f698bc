"""What our commands share: no slow look-ups, text for users by default, cliff's formats for scripts."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import cliff._argparse
import cliff.command
import cliff.display
import cliff.lister
import cliff.show

from imageflow.cli.present import seen
from imageflow.errors import BadInput
from imageflow.host.visible import visible

if TYPE_CHECKING:
    from imageflow.cli.app import App

TEXT = "text"
FOR_PEOPLE = ("table", "value")  # formats in which a value stands as it is, and a line feed in it would be another row


class _Help(cliff._argparse.SmartHelpFormatter):
    """Keeps the paragraphs of a description apart."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(textwrap.fill(" ".join(p.split()), width, initial_indent=indent) for p in paragraphs)


class Command(cliff.command.Command):
    """A command that formats its own output."""

    app: App

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.formatter_class = _Help
        parser.allow_abbrev = False  # an abbreviation in a script breaks when an option is added
        return parser

    def get_epilog(self) -> str:
        """Cliff would look through every installed distribution for the name of a plugin."""
        return self._epilog or ""


def _teach_yaml() -> None:
    """Let YAML print states and verdicts as text, as every other formatter does."""
    import yaml

    yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, word: dumper.represent_str(word.value))


class _Formatted(Command, cliff.display.DisplayCommandBase[Any]):
    """A command with -f and -c; `exit_code` is its exit code when it raises nothing."""

    exit_code = 0
    columns: tuple[str, ...] = ()  # of a command that changes something: a wrong -c is reported before the change

    def run(self, parsed_args: argparse.Namespace) -> int:
        if parsed_args.formatter == "yaml":
            _teach_yaml()
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

    nothing = ""  # printed for users when there are no rows

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Iterable[Sequence[Any]]
    ) -> int:
        rows = list(data)
        self._generate_columns_and_selector(parsed_args, column_names)  # a wrong -c is an error without rows, too
        if not rows and parsed_args.formatter == "table" and not parsed_args.print_empty:
            self.app.note(f"({self.nothing})")
            return 0
        if parsed_args.formatter in FOR_PEOPLE:
            rows = [[seen(value) for value in row] for row in rows]
        return super().produce_output(parsed_args, column_names, rows)


class ShowOne(_Formatted, cliff.show.ShowOne):
    """A command whose result is one thing."""

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Sequence[Any]) -> int:
        if parsed_args.formatter in FOR_PEOPLE:
            data = [seen(value) for value in data]
        return super().produce_output(parsed_args, column_names, data)


class _TextByDefault(_Formatted):
    """Text when no format is requested: `take_action` stores on self what `text` needs."""

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
            parsed_args.formatter = "table"  # naming columns implies a table
        if parsed_args.formatter != TEXT:
            return super().run(parsed_args)
        self.take_action(parsed_args)
        self.app.stdout.writelines(f"{visible(line)}\n" for line in self.text())
        return self.exit_code

    def text(self) -> Iterable[str]:
        """The lines that a user reads."""
        raise NotImplementedError


class TextLister(_TextByDefault, Lister):
    """Rows for scripts, text for users."""


class TextShowOne(_TextByDefault, ShowOne):
    """One thing for scripts, text for users."""
