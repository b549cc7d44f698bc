# SPDX-License-Identifier: GPL-2.0-only
"""Reads a kickstart with pykickstart: a program of its own, because pykickstart is GPL-2.0 and imageflow is Apache-2.0.

imageflow imports nothing of it. It starts it by its path, gives it JSON and gets JSON:
    {"text": TEXT, "releases": [NAME, ...], "tolerant": bool}  ->  {"releases": [NAME, ...], "found": {NAME: [FOUND, ...]}}
The first list has all names that pykickstart knows, the oldest first. FOUND is [LINE or 0, KIND, MESSAGE], with the kinds error,
bug, quote and warning. No file and no URL that a kickstart names is read. `tolerant`: sections need no %end, as before RHEL 7.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

from pykickstart import parser, version
from pykickstart.errors import KickstartError, KickstartWarning

_MEMORY = 1 << 30  # bytes
_PROCESSOR = 60  # seconds


def releases() -> list[str]:
    """All names that pykickstart knows, the oldest first."""
    names = [name for name in version.versionMap if name != "DEVEL"]
    return sorted(names, key=lambda name: int(version.versionMap[name]))


def read(text: str, release: str, tolerant: bool) -> list[tuple[int, str, str]]:
    """Every error of a release's grammar, and what it only warns of."""
    found: list[tuple[int, str, str]] = []

    def failed(error: Any) -> None:
        found.append((getattr(error, "lineno", 0) or 0, "error", str(getattr(error, "value", "") or error)))

    class Parser(parser.KickstartParser):  # type: ignore[misc]
        def _tryFunc(self, fn: Callable[[], Any]) -> None:  # noqa: N802  # pykickstart's name: it prints the errors
            try:
                fn()
            except KickstartError as error:
                failed(error)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                found.append((0, "bug", str(error)))

    # pykickstart's own lookup of a handler would extend sys.path each time
    module = importlib.import_module(f"pykickstart.handlers.{release.lower()}")
    handler = getattr(module, f"{release}Handler")()
    reader = Parser(handler, followIncludes=False, errorsAreFatal=False, unknownSectionIsFatal=True)
    if tolerant:
        reader.version = version.FC6
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            reader.readKickstartFromString(text)
        except KickstartError as error:
            failed(error)
        except ValueError as error:  # from shlex, which does not know the line
            found.append((0, "quote", str(error)))
    found += [(0, "warning", str(one.message)) for one in warned if issubclass(one.category, KickstartWarning)]
    return found


def main() -> int:
    """Answer the request in standard input; -> the exit code."""
    for limit, most in ((resource.RLIMIT_DATA, _MEMORY), (resource.RLIMIT_CPU, _PROCESSOR)):
        hard = resource.getrlimit(limit)[1]  # of a process in one that has limits itself: it can't be raised
        most = most if hard == resource.RLIM_INFINITY else min(most, hard - 1)
        resource.setrlimit(limit, (most, most + 1))  # SIGXCPU comes first, and says why
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = {name: read(asked["text"], name, asked["tolerant"]) for name in asked["releases"]}
    json.dump({"releases": releases(), "found": found}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
