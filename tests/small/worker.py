"""A worker process for tests: `python -m tests.small.worker CONFIG_FILE [idle]`; `idle` ends it when nothing is queued."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(threadName)s %(message)s")
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    from imageflow import config
    from imageflow.builds.conductor import Conductor
    from imageflow.service import Service

    with Service.open(config.load([sys.argv[1]])) as service:
        conductor = Conductor(service)

        def stop(*_: Any) -> None:
            conductor.stop()

        signal.signal(signal.SIGTERM, stop)
        until = (lambda: service.board.job_count == 0) if "idle" in sys.argv else None
        conductor.run(until)


if __name__ == "__main__":
    main()
