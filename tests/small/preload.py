"""What every worker process has imported before it is forked, and how it begins."""

from __future__ import annotations

import os
import runpy
import sys
import warnings

warnings.simplefilter("ignore")

import imageflow.conductor  # noqa: E402 - after the filter: taskflow warns of eventlet where it is installed
import tests.small.flow  # noqa: E402

_ = (imageflow, tests)


def run(module: str, arguments: list[str], log: str) -> None:
    """Be `python -m MODULE ARGUMENTS…` with all output in a log file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
