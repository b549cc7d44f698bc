"""The `imageflow` program: global options, command look-up, errors and exit codes.

Start-up time is part of the interface: nothing heavy is imported here, and command modules import what
they need inside their functions (the service alone costs more than everything in this module).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import TYPE_CHECKING, NoReturn

from cliff.app import App as CliffApp
from cliff.commandmanager import CommandManager
from cliff.help import HelpExit

from imageflow.errors import BadInput, ImageflowError
from imageflow.host.visible import VisibleFormatter, visible

if TYPE_CHECKING:
    from imageflow.config import Config
    from imageflow.service import Service

COMMANDS = "imageflow.commands"  # the entry points that are our commands
DESCRIPTION = """Build machine images from declared inputs: once, resumable at any point.

Exit codes: 0 done, 1 failed, 2 bad input, 3 paused (resume or abort the build)."""
BUG = "this is a bug in imageflow; please report it with the lines above"
INTERRUPTED = 130  # as shells do: 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE


class App(CliffApp):
    """Reads the global options and runs one command."""

    NAME = "imageflow"

    def __init__(self) -> None:
        super().__init__(
            description=DESCRIPTION,
            version=importlib.metadata.version("imageflow"),
            command_manager=CommandManager(COMMANDS),
            deferred_help=True,  # 'imageflow build create --help' is about 'build create'
        )

    def build_option_parser(
        self, description: str | None, version: str | None, argparse_kwargs: dict[str, object] | None = None
    ) -> argparse.ArgumentParser:
        parser = super().build_option_parser(
            description,
            version,
            {
                "prog": self.NAME,
                "allow_abbrev": False,  # otherwise 'build list --state X' is taken for --state-dir
                "formatter_class": argparse.RawDescriptionHelpFormatter,
                "usage": "%(prog)s [options] COMMAND …",
            },
        )
        parser.add_argument(
            "--state-dir",
            metavar="DIR",
            help="where imageflow keeps its state (default: IMAGEFLOW_STATE_DIR, /var/lib/imageflow for root, "
            "else the XDG state directory)",
        )
        parser.add_argument(
            "--config-file",
            metavar="FILE",
            action="append",
            default=[],
            help="read this configuration file instead of the default ones; can be repeated",
        )
        return parser

    def configure_logging(self) -> None:
        """Warnings to stderr; -v shows what imageflow does, -vv and --debug show everything."""
        root = logging.getLogger()
        root.setLevel(logging.DEBUG)
        console = logging.StreamHandler(self.stderr)
        console.setFormatter(VisibleFormatter("imageflow: %(message)s"))
        level = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO}.get(self.options.verbose_level, logging.DEBUG)
        console.setLevel(logging.DEBUG if self.options.debug else level)
        root.addHandler(console)
        if (
            self.options.verbose_level < 3 and not self.options.debug
        ):  # they log tracebacks of what we report in plain words
            for name in ("taskflow.engines", "oslo_utils.excutils"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.options.log_file:
            to_file = logging.FileHandler(self.options.log_file)
            to_file.setFormatter(VisibleFormatter(self.LOG_FILE_MESSAGE_FORMAT))
            root.addHandler(to_file)

    def run(self, argv: Sequence[str]) -> int:
        """Run the program; -> its exit code."""
        try:
            try:
                return self._run(list(argv))
            finally:
                self._flush()
        except HelpExit:
            return 0
        except BrokenPipeError:  # the reader of our output is gone, as in '| head'
            self._drop_output()
            return BROKEN_PIPE
        except KeyboardInterrupt:
            return INTERRUPTED
        except ImageflowError as error:
            self._show_traceback_if_asked()
            self.complain(error.message, error.hint)
            return error.exit_code
        except OSError as error:
            self._show_traceback_if_asked()
            self.complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            return 1
        except Exception as error:  # noqa: BLE001 - a bug in imageflow
            self.note(traceback.format_exc().rstrip())
            self.complain(f"{type(error).__name__}: {error}", BUG)
            return 1

    def _run(self, argv: list[str]) -> int:
        self.options, words = self.parser.parse_known_args(argv)
        self.configure_logging()
        if words == ["help"] or (self.options.deferred_help and not words):
            self.print_overview()
            return 0
        if self.options.deferred_help:
            words.insert(0, "help")
        if not words:
            self.parser.print_usage(self.stderr)
            self.complain("which command?", "'imageflow --help' lists them")
            return 2
        return self.run_subcommand(words)

    def run_subcommand(self, argv: list[str]) -> int:
        """Find the command, parse its arguments and run it; errors are left to the caller."""
        try:
            factory, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            self._unknown(argv)
        named = {"cmd_name": name} if "cmd_name" in inspect.signature(factory).parameters else {}
        if name == "help":
            self._check_known(rest)
        command = factory(self, self.options, **named)
        parser = command.get_parser(f"{self.NAME} {name}")
        parsed = parser.parse_args(rest)
        _check_text(vars(parsed).values())
        return command.run(parsed)

    def _check_known(self, words: list[str]) -> None:
        """Answer 'help nonsense' in the same way as 'nonsense'."""
        if words and not words[0].startswith("-"):
            try:
                self.command_manager.find_command(words)
            except ValueError:
                self._unknown(words)

    def _unknown(self, argv: list[str]) -> NoReturn:
        from difflib import get_close_matches

        known = sorted(name for name, _ in self.command_manager)
        words = list(takewhile(lambda word: not word.startswith("-"), argv))[:2]
        if not words:
            raise BadInput(f"there is no option {argv[0]}", hint="'imageflow --help' lists the options")
        under = [name for name in known if name.split()[0] == words[0]]
        if len(words) == 1 and under:
            raise BadInput(f"'{words[0]}' what?", hint=f"one of: {', '.join(under)}")
        near = [name for name in known if name.split()[-1] in words]  # 'build plan' is 'recipe plan'
        if len(near) != 1:
            near = get_close_matches(" ".join(words), known, n=3, cutoff=0.7) or under
        hint = f"did you mean {', '.join(near)}?" if near else "'imageflow --help' lists the commands"
        raise BadInput(f"there is no command '{' '.join(words)}'", hint=hint)

    def print_overview(self) -> None:
        """The global help: options, and each command with its one line."""
        self.parser.print_help(self.stdout)
        self.stdout.write("\nCommands ('imageflow help COMMAND' says more):\n")
        rows = []
        for name, point in sorted(self.command_manager):
            words = (inspect.getdoc(point.load()) or "").split("\n")[0].rstrip(".")
            rows.append((name, words[:1].upper() + words[1:]))
        width = max(len(name) for name, _ in rows)
        self.stdout.writelines(f"  {name:<{width}}  {words}\n" for name, words in rows)

    def _flush(self) -> None:
        try:
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._drop_output()
            raise ImageflowError(f"standard output can't be written: {error.strerror}") from error

    def _drop_output(self) -> None:
        """Discard the buffered output: flushing it would fail again at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())

    def complain(self, message: str, hint: str = "") -> None:
        """Print what went wrong, and the hint on the next line."""
        with suppress(ImageflowError, OSError):
            self._flush()
        self.stderr.write(f"{self.NAME}: {visible(message, lines=True)}\n")
        if hint:
            self.stderr.write(f"({visible(hint, lines=True)})\n")
        self.stderr.flush()

    def note(self, text: str) -> None:
        """Print a message that is not the command's result."""
        self.stderr.write(f"{visible(text, lines=True)}\n")
        self.stderr.flush()

    def config(self) -> Config:
        """The configuration according to the global options."""
        from imageflow import config

        return config.load(self.options.config_file, self.options.state_dir)

    @contextmanager
    def service(self, config: Config | None = None, *, builds: bool = False) -> Iterator[Service]:
        """The service, open; with another configuration than that of the global options, if one is given.

        `builds`: it may build in this process. Otherwise a user waits for an answer, and a cloud that is down gets less time.
        """
        from imageflow.host import private
        from imageflow.service import Service

        found = config or self.config()
        if builds or config is not None:
            with private.umask(), Service.open(found) as service:
                yield service
        else:
            with Service.open(found.impatient) as service:
                yield service

    def _show_traceback_if_asked(self) -> None:
        if getattr(self, "options", None) is not None and self.options.debug:
            traceback.print_exc(file=self.stderr)


def _check_text(values: Iterable[object]) -> None:
    """Raises BadInput for bytes that are not text: names are text in the database; a path (a Path here) may be any bytes."""
    for value in values:
        if isinstance(value, (list, tuple)):
            _check_text(value)
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadInput(f"{value!r} is not text in UTF-8") from None


def _ensure_streams() -> None:
    """Open the null device for closed standard streams: otherwise the next opened file would be taken for one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without ✔ is no reason to fail


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")  # oslo's, and we do not use it
    _ensure_streams()
    return App().run(sys.argv[1:] if argv is None else argv)
