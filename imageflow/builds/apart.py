"""Runs a build in a process of its own, to learn whether it is the build that ends its conductors.

Conductors die for many reasons: an operator, a restart, a host that runs out of memory. Only a process that dies while the
conductor that started it lives, and that runs nothing but this build, died of this build.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

from imageflow.background.complaints import Complaints
from imageflow.builds.parts import Parts
from imageflow.errors import Cancelled, ClaimLost, CommandFailed, DatabaseUnavailable, ImageflowError
from imageflow.host import process
from imageflow.host.control import Control
from imageflow.model import Wish
from imageflow.persistence import builds
from imageflow.persistence.claim import Claim

LOG = logging.getLogger(__name__)
_LOST, _AWAY = 3, 4  # exit codes: the claim is lost; the build could not be given back
_GO_ON, _SUSPEND = b"\0", b"\1"
_POLL = 0.25  # seconds between two looks at what the conductor wants


def run(parts: Parts, claim: Claim, conductor: str, build_id: str, control: Control, suspended: Any) -> str | None:
    """Run a build that we hold to the end of its job; -> None, or how the process died, in words.

    `suspended()`: whether it is to stop after the running step. Raises ClaimLost, Unavailable, and what `control` says.
    """
    job = claim.job
    told = (type(parts), parts.config, conductor, build_id, str(job.uuid), job.fence, job.owner)
    descriptor = os.memfd_create("imageflow-build")  # no file: the configuration holds passwords
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_GO_ON + pickle.dumps(told))

        def look() -> None:
            if suspended():
                os.pwrite(descriptor, _SUSPEND, 0)

        command = [sys.executable, "-m", __name__, f"/proc/{os.getpid()}/fd/{descriptor}"]
        with control.watched(look, every=_POLL):
            process.run(command, control=control, log=LOG.info, env=dict(os.environ), name="its process")
    except CommandFailed as error:
        if error.message.endswith(f"exit code {_LOST}"):
            raise ClaimLost from error
        if error.message.endswith(f"exit code {_AWAY}"):
            raise DatabaseUnavailable from error
        return error.message
    finally:
        os.close(descriptor)
    return None


def main(place: str) -> int:
    """The process: `place` is the file with what `run` has told."""
    from imageflow.builds.run import BuildRun

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with Path(place).open("rb") as file:
        file.seek(1)
        kind, config, conductor, build_id, uuid, fence, owner = pickle.load(file)  # noqa: S301 - our own conductor wrote it, for this process alone
        parts: Parts = kind(config)
        over = threading.Event()
        try:
            job = parts.board.held(uuid, fence, owner)
            work = BuildRun(parts, Claim(parts.board, job, config.conductor.lease), conductor, build_id, alone=True)
            keeper = threading.Thread(target=_keep, args=(parts, work, file.fileno(), over), daemon=True)
            keeper.start()
            return _carry_out(work)
        except ClaimLost:
            return _LOST
        finally:
            over.set()


def _carry_out(work: Any) -> int:
    try:
        work.run()
    except ClaimLost:
        raise
    except ImageflowError as error:
        LOG.error("build %s: %s; it is handed back", work.build_id, error)
        try:
            work.hand_back()
        except DatabaseUnavailable:
            return _AWAY
    except Exception:
        LOG.exception("build %s: a bug in imageflow", work.build_id)
        work.pause_for_bug()
    return 0


def _keep(parts: Parts, work: Any, descriptor: int, over: threading.Event) -> None:
    """Renew the lease, and watch for what users and the conductor want."""
    lease, renewed = parts.config.conductor.lease, time.monotonic()
    complaints = Complaints()
    while not over.wait(min(_POLL, lease / 10)):
        if os.pread(descriptor, 1, 0) == _SUSPEND:
            work.suspend()
        with complaints.instead_of_failing("keep a build"):
            asked = time.monotonic()
            if asked - renewed > lease / 5:
                if parts.board.extend(work.claim.job, lease):
                    work.claim.renewed(asked)
                    renewed = asked
                elif not work.over:
                    work.lose()
            with parts.database.read() as conn:
                wish = builds.wishes(conn, [work.build_id]).get(work.build_id)
            if wish in (Wish.ABORT, Wish.CANCEL):
                work.interrupt(Cancelled(f"the build was asked to end ({wish})"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
