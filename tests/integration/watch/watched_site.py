"""A site whose inputs a watcher looks at: once and until all is settled, or quickly and for ever."""

from __future__ import annotations

import hashlib
import time

from imageflow.errors import ImageflowError
from imageflow.host.control import Control
from imageflow.listeners import Surroundings
from imageflow.listeners.watch import Watcher
from imageflow.model import Build, BuildState
from tests.small.polled import Site

BOOT = """images:
  - name: web
    method: boot
    base: {base}
    machine: {{vcpus: 1, memory: 512, disk: 2}}
    configure: [{{shell: 'true'}}]
    on: [{{watch: base}}]
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def quick(around: Surroundings) -> Watcher:
    return Watcher(around, tick=0.02, read=0.1, settle=0.1)


def look(site: Site) -> list[str]:
    """What a process that has just been started does until all is settled; -> what it can't look at."""
    watcher = Watcher(site.around())
    troubles = []
    for place in watcher._places(site.watched.triggers("watch")):
        try:
            sight = next(filter(None, (watcher._look(place, Control()) for _ in range(5))))
        except ImageflowError as error:
            troubles.append(error.message)
        else:
            watcher.saw(watcher._triggers[place], sight)
    return troubles


def built(site: Site, pins: dict[str, str]) -> None:
    """A build that succeeded with these pins is in the database."""
    from imageflow.persistence import builds

    now = time.time()
    build = Build(
        id="0" * 12,
        image="web",
        method="dib",
        key="k" * 64,
        recipe={},
        pins=pins,
        state=BuildState.SUCCEEDED,
        created=now,
        reason="test",
        flow="f",
    )
    with site.database.begin() as conn:
        builds.insert(conn, build, claim=False)
