"""A process that serves without HTTP, and builds with the quick flow: `… dispatch_worker CONFIG_FILE [real] [die WHERE]`.

`real`: each build runs its own flow.
`die WHERE` kills it with SIGKILL the first time it gets there: received, matching, matched, taken, pinned, enlisted, submitted.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from typing import Any


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(threadName)s %(message)s")
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    from imageflow import config
    from imageflow.builds import engine, submission
    from imageflow.persistence import events, jobboard, reactions
    from imageflow.rebuilds import dispatcher
    from imageflow.service import Service
    from imageflow.serving import Serving

    if "real" not in sys.argv:
        engine.factory_of = lambda method: "tests.small.quick.quick"

    def die_after(holder: Any, name: str) -> None:
        work = getattr(holder, name)

        @functools.wraps(work)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if result := work(*args, **kwargs):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(holder, name, wrapped)

    def die_before(holder: Any, name: str) -> None:
        setattr(holder, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

    if "die" in sys.argv:
        where = sys.argv[-1]
        if where == "received":
            die_before(dispatcher, "match_waiting")
        elif where == "matching":
            die_after(events, "judge")
        elif where == "matched":
            die_after(dispatcher, "match_waiting")
        elif where == "taken":
            die_after(reactions, "take")
        elif where == "pinned":
            die_after(submission.Submitter, "wanted")
        elif where == "enlisted":
            die_after(jobboard.SqlJobBoard, "post_in")
        elif where == "submitted":
            die_after(submission.Submitter, "ask")

    with Service.open(config.load([sys.argv[1]])) as service:
        serving = Serving(service)
        signal.signal(signal.SIGTERM, lambda *_: serving.stop())
        serving.run(lambda: None)


if __name__ == "__main__":
    main()
