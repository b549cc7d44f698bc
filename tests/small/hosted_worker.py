"""A process that looks at the recipes `infra`, and is killed at a place: `… hosted_worker CONFIG_FILE PLACE`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from imageflow import config
from imageflow.fetch import git
from imageflow.host.control import Control
from imageflow.registry import git_recipes
from imageflow.service import Service

RUN = git.process.run


def die(service: Service, place: str) -> None:
    """Kill this child with SIGKILL the first time it gets to this place; everything new is written in one transaction."""

    def end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(holder: Any, name: str) -> None:
        work = getattr(holder, name)
        setattr(holder, name, lambda *words, **more: (work(*words, **more), end()))

    if place == "fetched":
        git.process.run = lambda argv, **more: end() if "sync" in argv else RUN(argv, **more)  # type: ignore[assignment]
    elif place == "read":
        service.database.transact = end  # type: ignore[method-assign]
    elif place == "told":
        after(git_recipes.events, "add")
    else:
        after(service.database, "transact")


def main() -> None:
    with Service.open(config.load([sys.argv[1]])) as service:
        die(service, sys.argv[2])
        service.git_recipes.look("infra", Control())


if __name__ == "__main__":
    main()
