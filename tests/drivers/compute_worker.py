"""A worker for tests of machines: does one thing when its standard input ends, and may be killed at any time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.drivers.compute_site import NAME, SPEC, Site


def main(driver: str, folder: str, memory: str, what: str, *words: str) -> None:
    site = Site(driver, Path(folder), **({"max_memory": int(memory)} if int(memory) else {}))
    print("ready", flush=True)
    sys.stdin.read()
    if what == "ensure":
        print(site.ensure(*words).process)
    elif what == "ensure-and-checkpoint":
        site.ensure()
        print(site.checkpoint("c").key)
    elif what == "ensure-and-delete":
        site.ensure(*words)
        site.compute.delete(words[0] if words else NAME)
    elif what == "in-turn":
        (name,) = words
        site.ensure(name, SPEC)
        print(len(site.compute.list()), site.running())
        site.compute.delete(name)
    else:
        raise ValueError(what)


main(*sys.argv[1:])
