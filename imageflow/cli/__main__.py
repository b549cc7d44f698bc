"""`python -m imageflow.cli`: the same program as the console script."""

import sys

from imageflow.cli.app import main

sys.exit(main())
