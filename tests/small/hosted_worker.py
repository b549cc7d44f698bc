"""A process that looks at the recipes `infra` and is killed there: `… hosted_worker CONFIG_FILE PLACE`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from imageflow import config, hosted, repository
from imageflow.control import Control
from imageflow.hosted import Hosted
from imageflow.service import Service

RUN = repository.process.run


def die(place: str) -> None:
    """In a child: killed -9 the first time that it comes to this place."""

    def end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(holder: Any, name: str) -> None:
        work = getattr(holder, name)
        setattr(holder, name, lambda *words, **more: (work(*words, **more), end()))

    if place == "fetched":
        repository.process.run = lambda argv, **more: end() if "sync" in argv else RUN(argv, **more)  # type: ignore[assignment]
    elif place == "read":
        after(Hosted, "_read")
    elif place == "told":
        after(hosted.events, "add")
    else:
        after(Hosted, "_follow")


def main() -> None:
    die(sys.argv[2])
    with Service.open(config.load([sys.argv[1]])) as service:
        service.hosted.look("infra", Control())


if __name__ == "__main__":
    main()
