"""Which services start at boot; none is started or stopped during the build."""

from __future__ import annotations

import shlex
from pathlib import Path

from imageflow.model import Json
from imageflow.provisioners import Context
from imageflow.provisioners.wording import short

_FUNCTIONS = """
set -eu
if command -v systemctl >/dev/null 2>&1; then
    enable() { systemctl --no-reload enable "$@"; }
    disable() { systemctl --no-reload disable "$@"; }
elif command -v rc-update >/dev/null 2>&1; then
    enable() { for each; do rc-update add "${each%.service}" default; done; }
    disable() { for each; do rc-update --all delete "${each%.service}" || :; done; }
else
    echo 'neither systemctl nor rc-update is here' >&2
    exit 1
fi
"""


class Services:
    """`- services: {enable: [nginx], disable: [apache2]}`."""

    def title(self, value: Json) -> str:
        return short("services " + ", ".join(f"{verb} {name}" for verb, name in _each(value)))

    def sources(self, value: Json) -> tuple[str, ...]:
        return ()

    def check(self, value: Json, folder: Path) -> None:
        pass

    def apply(self, value: Json, context: Context) -> None:
        lines = "".join(f"{verb} {shlex.quote(name)}\n" for verb, name in _each(value))
        context.guest.run(_FUNCTIONS + lines, control=context.control, log=context.log, name=self.title(value))


def _each(value: Json) -> list[tuple[str, str]]:
    return [(verb, name) for verb in ("enable", "disable") for name in value.get(verb) or ()]
