"""Running the `imageflow` program for tests, as a person or a script does."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.small import preload

ROOT = Path(__file__).parents[2]
_PYTHON = [sys.executable, "-m", "imageflow.cli"]
_FORKS = multiprocessing.get_context("forkserver")  # of the same server as tests/small/site.py
_FORKS.set_forkserver_preload(["tests.small.preload"])


class Program:
    """`imageflow` with a state directory of its own; `run` returns the result."""

    def __init__(self, state_dir: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.argv = [*_PYTHON, *options]
        known = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR", "OS_DOWNLOADS__ALLOW")
            if name in os.environ
        }
        self.env = {
            **known,
            "PYTHONPATH": str(ROOT),
            "IMAGEFLOW_STATE_DIR": str(state_dir),
            "COLUMNS": "200",
            "OS_API__LISTEN": "127.0.0.1:0",  # tests run in parallel
            **(env or {}),
        }

    def run(self, *words: str, expect: int | None = 0, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        done = self._forked(words, seconds) if self._is_plain() else self._started(words, seconds)
        if expect is not None:
            assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def _is_plain(self) -> bool:
        """Whether its interpreter begins as that of the tests did: then a fork of one that has imported everything will do."""
        changed = {name for name in self.env if name.startswith(("PYTHON", "LC_"))} - {"PYTHONPATH"}
        return not changed and self.env["PYTHONPATH"] == str(ROOT) and self.argv[: len(_PYTHON)] == _PYTHON

    def _forked(self, words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        argv = [*self.argv, *words]
        with tempfile.TemporaryDirectory(prefix="program-") as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            given = (argv[len(_PYTHON) :], str(output), str(errors), self.env, os.getcwd())
            process = _FORKS.Process(target=preload.program, args=given, daemon=True)
            process.start()
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
                process.join()
                raise subprocess.TimeoutExpired(argv, seconds, output.read_text(), errors.read_text())
            return subprocess.CompletedProcess(argv, process.exitcode, output.read_text(), errors.read_text())

    def _started(self, words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.argv, *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *words: str, expect: int = 0, seconds: float = 120) -> Any:
        """Run a command with -f json; -> what it printed."""
        return json.loads(self.run(*words, "-f", "json", expect=expect, seconds=seconds).stdout)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command; the caller ends it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([*self.argv, *words], env=self.env, text=True, **pipes)
