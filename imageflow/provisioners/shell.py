"""A user's script."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.host import text
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import short

_INTERPRETER = re.compile(rb"#![ \t]*(?P<program>\S+)(?:[ \t]+(?P<argument>[^\n]*?))?[ \t\r]*(?:\n|\Z)")
_LINE = 256  # bytes that Linux reads of an interpreter's line
_PLACE = "/run/imageflow/script"  # in memory


class Shell:
    """`- shell: {run: TEXT, environment: {TOKEN: {secret: token}}}`, run by `sh -eu` or by its `#!` interpreter."""

    def title(self, value: Json) -> str:
        if value.get("source") is not None:
            return short(f"shell {value['source']}")
        lines = [line for line in value["run"].splitlines() if line.strip() and not line.startswith("#!")]
        return short(f"shell {lines[0].strip()}" if lines else "shell")

    def sources(self, value: Json) -> list[str]:
        return [] if value.get("source") is None else [str(value["source"])]

    def check(self, value: Json, folder: Path) -> None:
        if value.get("source") is None and "\0" in value["run"]:
            raise RecipeError("shell: the script contains a NUL character")

    def apply(self, value: Json, context: Context) -> None:
        data = value["run"].encode() if value.get("source") is None else sources.read(value["source"], context)
        if text.is_text(data):
            data = text.read(data, script=True).text.encode()
        environment = resolved(value.get("environment") or {}, context.secret)
        name = self.title(value)
        found = _INTERPRETER.match(data[:_LINE])
        if found is None and text.is_text(data):
            script = "set -eu\n" + data.decode()
            context.guest.run(script, control=context.control, log=context.log, environment=environment, name=name)
            return
        # The interpreter is started with the file, as the kernel would: /run may be mounted noexec.
        context.guest.put(data, _PLACE, mode="0700", control=context.control)
        words = [_PLACE]
        if found is not None:
            words = [found["program"].decode(), *([found["argument"].decode()] if found["argument"] else []), _PLACE]
        command = f"trap 'rm -f {_PLACE}' EXIT\n{shlex.join(words)}\n"
        context.guest.run(command, control=context.control, log=context.log, environment=environment, name=name)
