"""A script of the user's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.model import Json
from imageflow.provisioners import Context, sources
from imageflow.provisioners.values import resolved
from imageflow.provisioners.wording import short

_INTERPRETER = re.compile(rb"#![ \t]*(?P<program>\S+)(?:[ \t]+(?P<argument>[^\n]*?))?[ \t\r]*(?:\n|\Z)")
_PLACE = "/run/imageflow/script"  # in memory


class Shell:
    """`- shell: {run: TEXT, environment: {TOKEN: {secret: token}}}`: for `sh -eu`, or for what its `#!` names."""

    def title(self, value: Json) -> str:
        if value.get("source") is not None:
            return short(f"shell {value['source']}")
        lines = [line for line in value["run"].splitlines() if line.strip() and not line.startswith("#!")]
        return short(f"shell {lines[0].strip()}" if lines else "shell")

    def sources(self, value: Json) -> list[str]:
        return [] if value.get("source") is None else [str(value["source"])]

    def check(self, value: Json, folder: Path) -> None:
        if value.get("source") is None and "\0" in value["run"]:
            raise RecipeError("shell: there is a NUL character in the script")

    def apply(self, value: Json, context: Context) -> None:
        data = value["run"].encode() if value.get("source") is None else sources.read(value["source"], context)
        environment = resolved(value.get("environment") or {}, context.secret)
        name = self.title(value)
        found = _INTERPRETER.match(data)
        if found is None and b"\0" not in data and _is_text(data):
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


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
