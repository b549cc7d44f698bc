"""Running the `imageflow` program for tests, as a person or a script does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Program:
    """`imageflow` with a state directory of its own; `run` returns what it did."""

    def __init__(self, state_dir: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.argv = [sys.executable, "-m", "imageflow.cli", *options]
        known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.env = {
            **known,
            "PYTHONPATH": str(ROOT),
            "IMAGEFLOW_STATE_DIR": str(state_dir),
            "COLUMNS": "200",
            "OS_API__LISTEN": "127.0.0.1:0",  # tests run beside each other
            **(env or {}),
        }

    def run(self, *words: str, expect: int | None = 0, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        done = subprocess.run(
            [*self.argv, *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, expect: int = 0, seconds: float = 120) -> Any:
        """Run a command with -f json; -> what it printed."""
        return json.loads(self.run(*words, "-f", "json", expect=expect, seconds=seconds).stdout)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command; the caller ends it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([*self.argv, *words], env=self.env, text=True, **pipes)
