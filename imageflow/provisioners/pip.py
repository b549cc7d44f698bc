"""Python packages, installed with the machine's own pip, which is installed first if missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imageflow.guest import pip
from imageflow.provisioners import Context
from imageflow.provisioners.packages import functions, progress_in
from imageflow.provisioners.wording import listing


class Pip:
    """`- pip: [flask==3.1.*]`."""

    def title(self, value: Sequence[str]) -> str:
        return listing("pip", value)

    def sources(self, value: Sequence[str]) -> Sequence[str]:
        return ()

    def check(self, value: Sequence[str], folder: Path) -> None:
        pass

    def apply(self, value: Sequence[str], context: Context) -> None:
        tool = context.guest.facts.packages
        install = functions(context) if tool else 'install_packages() { echo "there is no $1" >&2; return 1; }\n'
        script = f"set -e\n{install}\n{pip.script(value, 'py3-pip' if tool == 'apk' else 'python3-pip')}"
        context.guest.run(script, control=context.control, log=progress_in(context), name=self.title(value))
