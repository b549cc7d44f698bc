"""A process that looks at the recipes `infra` and is killed there: `… hosted_worker CONFIG_FILE PLACE`."""

from __future__ import annotations

import sys


def main() -> None:
    from imageflow import config
    from imageflow.control import Control
    from imageflow.service import Service
    from tests.flows import test_hosted

    test_hosted.die(sys.argv[2])
    with Service.open(config.load([sys.argv[1]])) as service:
        service.hosted.look("infra", Control())


if __name__ == "__main__":
    main()
