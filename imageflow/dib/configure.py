"""The `configure` part of a recipe as an element, run inside the image from top to bottom."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from imageflow.errors import InputChanged, RecipeError
from imageflow.guest import accounts, pip
from imageflow.inputs.pins import Pins
from imageflow.model import Json

NAME = "imageflow-configure"
_FILES = "imageflow-files"  # a folder of the element; hooks see it as /tmp/in_target.d/imageflow-files
_HEAD = "#!/bin/bash\nset -eu\nset -o pipefail\n"
_INSTALL = 'install_packages() { install-packages "$@"; }\n'  # same name as in a booted machine


def write_element(elements: Path, steps: Sequence[Json], folder: Path, pins: Json) -> bool:
    """Write the element below `elements`; False when there is nothing to configure.

    Local files are taken from the recipe's `folder` and compared with their pins while they are copied:
    InputChanged when one is not what it was.
    """
    if not steps:
        return False
    element = elements / NAME
    files = element / _FILES
    hooks = element / "post-install.d"
    for made in (files, hooks):
        made.mkdir(parents=True, exist_ok=True)
    element.chmod(0o700)
    first, rest = _leading_packages(steps)
    # Leading package steps are installed together with the elements' packages, in one run.
    (element / "package-installs.yaml").write_text(yaml.safe_dump(dict.fromkeys(first)))
    (element / "element-deps").write_text("package-installs\n" if _installs(steps) else "")
    for number, step in enumerate(rest):
        ((kind, value),) = step.items()
        script = _WRITERS[kind](value, _Sources(folder, files, pins, number))
        hook = hooks / f"60-imageflow-{number:03}-{kind}"
        hook.write_text(_HEAD + script)
        hook.chmod(0o700)
    return True


def passwords(steps: Sequence[Json]) -> dict[str, str]:
    """Variables that the element's hooks read -> names of the secrets that go into them."""
    return accounts.passwords([user for step in steps for user in step.get("users", ())])


def _leading_packages(steps: Sequence[Json]) -> tuple[list[str], list[Json]]:
    for position, step in enumerate(steps):
        if "packages" not in step:
            return [package for before in steps[:position] for package in before["packages"]], list(steps[position:])
    return [package for step in steps for package in step["packages"]], []


def _installs(steps: Sequence[Json]) -> bool:
    return any("packages" in step or "pip" in step for step in steps)


class _Sources:
    """Copies local files into the element."""

    def __init__(self, folder: Path, to: Path, pins: Json, step: int) -> None:
        self._folder, self._to, self._pins, self._step, self._count = folder, to, pins, step, 0

    def take(self, entry: Json) -> str:
        """Copy this entry's content; -> the copy's path, as a hook sees it."""
        name = f"{self._step:03}-{self._count:03}"
        self._count += 1
        if entry.get("source") is None:
            (self._to / name).write_text(entry["content"])
        else:
            self._copy(str(entry["source"]), self._to / name)
        return f"/tmp/in_target.d/{_FILES}/{name}"

    def _copy(self, source: str, to: Path) -> None:
        digest = hashlib.sha256()
        try:
            with (self._folder / source).open("rb") as reader, to.open("wb") as writer:
                while data := reader.read(1 << 20):
                    digest.update(data)
                    writer.write(data)
        except OSError as error:
            raise InputChanged(f"{source}: {error.strerror}") from error
        if Pins(self._pins).file(source) != digest.hexdigest():
            raise InputChanged(f"{source} is not what it was when the build was planned")


def _packages(packages: Sequence[str], _: _Sources) -> str:
    return f"install-packages {shlex.join(packages)}\n"


def _pip(requirements: Sequence[str], _: _Sources) -> str:
    return _INSTALL + pip.script(requirements)


def _files(entries: Sequence[Json], sources: _Sources) -> str:
    lines = []
    for entry in entries:
        place, owner = shlex.quote(str(entry["path"])), str(entry.get("owner") or "root:root")
        lines.append(f"install -D -m 0600 {sources.take(entry)} {place}")
        lines.append(f"chown {shlex.quote(owner if ':' in owner else owner + ':')} {place}")
        lines.append(f"chmod {entry.get('mode') or '0644'} {place}")  # last: chown clears the set-uid bit
    return "\n".join(lines) + "\n"


def _users(users: Sequence[Json], _: _Sources) -> str:
    return accounts.script(users)


def _services(services: Json, _: _Sources) -> str:
    lines = []
    for verb in ("enable", "disable"):
        if units := services.get(verb):
            lines.append(f"systemctl {verb} {shlex.join(units)}")
    if not lines:
        raise RecipeError("configure: services names no service")
    return "\n".join(lines) + "\n"


_WRITERS: dict[str, Callable[[Any, _Sources], str]] = {
    "packages": _packages,
    "pip": _pip,
    "files": _files,
    "users": _users,
    "services": _services,
}
