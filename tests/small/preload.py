"""What is imported before worker processes are forked, and how such a process begins."""

from __future__ import annotations

import os
import runpy
import sys
import warnings

_FILTERS = warnings.filters[:]  # as every interpreter begins
warnings.simplefilter("ignore")

import imageflow.builds.conductor  # noqa: E402 - after the filter: taskflow warns about eventlet when it is installed
import imageflow.cli.app  # noqa: E402
import imageflow.inputs  # noqa: E402
import imageflow.recipe.models  # noqa: E402
import imageflow.service  # noqa: E402
import tests.small.flow  # noqa: E402

_ = (imageflow, tests)
for _name, _command in imageflow.cli.app.App().command_manager:
    _command.load()


def run(module: str, arguments: list[str], output: str, errors: str = "") -> None:
    """Be `python -m MODULE ARGUMENTS…` with all output in a log file, or its errors in another one."""
    for number, name in ((1, output), (2, errors or output)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


def program(words: list[str], output: str, errors: str, environment: dict[str, str], folder: str) -> None:
    """Be the program `imageflow`."""
    warnings.filters[:] = _FILTERS  # type: ignore[index]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    run("imageflow.cli", words, output, errors)
