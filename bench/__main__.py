"""`python -m bench [NAME…]`: runs the benchmarks (all by default) and ends with the table of ratios."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
import time

from bench.measure import Result, table

NAMES = ("engine_time", "stored", "takeover", "startup", "events", "wants", "finishing", "remaster", "dib", "install")
LONG = ("year",)  # an hour; only when named


def main() -> int:
    """-> 0 when every goal is reached, otherwise 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a benchmark cleans up on exit
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*NAMES, *LONG, []], help="which; all but year by default")
    wanted = parser.parse_args().name or list(NAMES)
    results: list[Result] = []
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} processors", flush=True)
    for name in wanted:
        print(f"\n{name}", flush=True)
        began = time.monotonic()
        found = importlib.import_module(f"bench.{name}").run()
        results += found
        print(f"{table(found)}\n  ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"\n{table(results)}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
