"""A process that only sends announcements: `python -m tests.integration.announce_process CONFIG LEASE`."""

from __future__ import annotations

import sys

from imageflow import config
from imageflow.announce import load
from imageflow.announce.sender import Sender
from imageflow.background.flag import Flag
from imageflow.persistence.database import Database


def main(file: str, lease: float) -> None:
    """Send until killed."""
    loaded = config.load([file])
    target = loaded.announce.targets[0]
    with Database(loaded.database) as database:
        Sender(database, loaded, target, load(target)(loaded), lease=lease).run(Flag())


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
