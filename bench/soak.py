"""`python -m bench.soak`: a day of events, builds, paused machines and kill -9 in some twenty minutes, at default settings.

A real `imageflow serve` gets its events over HTTP, boots tiny guests, runs diskimage-builder, and is killed at random
moments. Nobody helps it. In the end an audit tells what became of everything; the exit code is 1 if anything waits, was
lost, or is left. Needs root, QEMU, and what the tests' tiny guest is made from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import audit
from imageflow import config
from imageflow.compute import capacity
from imageflow.events import door
from imageflow.model import BuildState
from imageflow.service import Service
from tests.guests import tiny

ROOT = Path(__file__).parents[1]
STUCK = 1800.0  # seconds without any change after which it is said to be stuck
BATCH = 19  # events in one request, at most
TWICE = 0.02  # of the requests come a second time, as senders do that saw no answer


class Serve:
    """The process that is killed, and started again as an init system does."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.argv = [sys.executable, "-m", "imageflow.cli", "--config-file", str(file)]
        self.log = folder / "serve.log"
        self.lives = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> None:
        self.lives += 1
        log = self.log.with_name(f"serve-{self.lives}.log")
        with log.open("wb") as out:
            argv = [*self.argv, "serve", "--listen", "127.0.0.1:0"]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, env=env)
        self.log = log
        self.address = ""

    def find_address(self) -> str:
        """Its address, or '' while it starts."""
        for line in "" if self.address else self.log.read_text().splitlines():
            if "listener http: " in line:
                self.address = line.rpartition("listener http: ")[2].strip()
        return self.address

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(120)


class Sender:
    """Sends each event until it is acknowledged, like a sender that keeps what was not answered with 2xx."""

    def __init__(self, serve: Serve, token: str, dice: random.Random) -> None:
        self.serve, self.token, self.dice = serve, token, dice
        self.waiting: list[list[dict[str, Any]]] = []
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.failures = 0

    def push(self, events: list[dict[str, Any]]) -> None:
        self.sent |= {event["id"] for event in events}
        self.waiting.append(events)

    def flush(self) -> None:
        """Send what waits, in order, until one is not taken."""
        while self.waiting:
            batch = self.waiting[0]
            for _ in range(1 + (self.dice.random() < TWICE)):
                if not self._post(batch):
                    self.failures += 1
                    return
            self.acknowledged |= {event["id"] for event in batch}
            del self.waiting[0]

    def _post(self, batch: list[dict[str, Any]]) -> bool:
        address = self.serve.find_address()
        if not address:
            return False
        headers = {"Content-Type": "application/cloudevents-batch+json", "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{address}/v1/events", json.dumps(batch).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.status == 202)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise AssertionError(f"HTTP {error.code}: {error.read().decode(errors='replace')}") from error
            return False
        except OSError:  # it was just killed
            return False


def recipes(folder: Path, builds: int, machines: int, paused: int) -> list[Path]:
    """Images that can be built, `machines` of them by `boot` and the others by `dib`, and the last `paused` ones, which fail in
    their machine and keep it."""
    (folder / "motd").write_text("soak\n")
    files = []
    for number in range(builds):
        fails = number >= builds - paused
        if not fails and number >= machines:
            body = """\
                method: dib
                dib: {elements: [tiny], skip-base: true, environment: {DIB_JOURNAL_SIZE: "4"}}
                configure: [{files: [{path: /etc/motd, source: motd}]}]
                """
        else:
            body = f"""\
                method: boot
                base: {{file: {tiny.disk()}}}
                machine: {{vcpus: 1, memory: 192}}
                configure:
                  - shell: echo {number} > /srv/number
                  - shell: {"echo broken >&2; exit 1" if fails else f"test $(cat /srv/number) = {number}"}
                """
        image = f"name: i{number}\n{textwrap.dedent(body)}on: [{{event: git.push, where: {{repository: r{number}}}}}]"
        file = folder / f"i{number}.yaml"
        file.write_text("images:\n  - " + image.replace("\n", "\n    ").rstrip() + "\n")
        files.append(file)
    return files


def plan_events(dice: random.Random, count: int, builds: int, paused: int) -> list[list[dict[str, Any]]]:
    """`count` pushes in batches: most of them for no image of ours or of a commit that is known; each image gets one
    commit, in a random order, the failing ones among them, and a tenth of the images get a second one late."""
    commits = {number: f"{dice.getrandbits(160):040x}" for number in range(builds)}
    known: list[int] = []
    good = [*range(builds - paused)]
    dice.shuffle(good)
    first = {dice.randrange(count // 10): number for number in good}  # which push brings an image its first commit
    while len(first) < len(good):
        first = {dice.randrange(count // 10): number for number in good}
    for number in range(builds - paused, builds):
        first[_free(dice, first, 0, count // 20)] = number
    later = {_free(dice, first, count * 2 // 3, count - 1): number for number in good[: max(1, len(good) // 10)]}
    events = []
    for position in range(count):
        if position in first:
            known.append(number := first[position])
        elif position in later:
            number = later[position]
            commits[number] = f"{dice.getrandbits(160):040x}"
        elif known and dice.random() < 0.7:
            number = dice.choice(known)
        else:
            number = builds + dice.randrange(100)  # nobody's repository
        data = {"repository": f"r{number}", "ref": "refs/heads/main", "after": commits.get(number, "0" * 39 + "1")}
        attributes = {"specversion": "1.0", "id": str(position), "source": "/soak", "type": "git.push"}
        events.append({**attributes, "subject": "refs/heads/main", "data": data})
    batches, at = [], 0
    while at < count:
        size = dice.randint(1, BATCH)
        batches.append(events[at : at + size])
        at += size
    return batches


def _free(dice: random.Random, taken: dict[int, int], low: int, high: int) -> int:
    """A position that no other image has."""
    while (position := dice.randint(low, high)) in taken:
        pass
    return position


def idle(service: Service) -> bool:
    """No event is without a verdict, no rebuild is open, no build is on its way."""
    return not audit.waiting(service)


@contextlib.contextmanager
def _site(keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="imageflow-soak-"))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def soak(folder: Path, options: argparse.Namespace) -> list[str]:
    """Run it; -> what is wrong, [] when nothing is."""
    dice = random.Random(options.seed)
    file = folder / "imageflow.conf"
    lines = ["[DEFAULT]", f"state_dir = {folder}/state", "[dib]", f"elements_path = {ROOT}/tests/recipes/elements"]
    file.write_text("\n".join(lines) + "\n")
    before = audit.Host.now(folder)
    with Service.open(config.load([str(file)])) as service:
        room = capacity.bound(service.config.qemu)
        paused = min(room.vcpus, options.builds // 2)  # they take all of the processors there are
        for recipe in recipes(folder, options.builds, options.machines, paused):
            service.recipes.add(recipe)
        batches = plan_events(dice, options.events, options.builds, paused)
        print(
            f"seed {options.seed}: {options.events} events in {len(batches)} requests, {options.builds} images, {paused}"
        )
        print(f"of them fail and keep their machine (room for {room.vcpus} vcpus), {options.kills} kills", flush=True)
        serve = Serve(file, folder)
        sender = Sender(serve, door.token(service.config), dice)
        watch = audit.Watch(folder)
        serve.start()
        try:
            _run(service, serve, sender, watch, batches, dice, options)
            wrong = _finish(service, serve, sender, watch, before, paused, folder)
        finally:
            if serve.process is not None and serve.process.poll() is None:
                serve.stop()
            for name in service.compute.list():  # only when it went wrong
                service.compute.delete(name)
    return wrong


def _run(
    service: Service,
    serve: Serve,
    sender: Sender,
    watch: audit.Watch,
    batches: list[list[dict[str, Any]]],
    dice: random.Random,
    options: argparse.Namespace,
) -> None:
    """Send, kill and start again, until everything was sent, all kills were done, and nothing waits any more."""
    began = changed = time.monotonic()
    pace = options.minutes * 60 / len(batches)
    next_batch = next_look = began
    next_kill = began + dice.expovariate(1 / options.gap)
    kills, seen, queue = 0, "", [*batches]
    while True:
        now = time.monotonic()
        assert serve.process is not None
        if (code := serve.process.poll()) is not None:
            raise AssertionError(f"serve ended by itself with {code}: {serve.log.read_text()[-3000:]}")
        if queue and now >= next_batch:
            sender.push(queue.pop(0))
            next_batch += pace
        sender.flush()
        watch.look()
        if kills < options.kills and now >= next_kill:
            serve.kill()
            kills += 1
            states = audit.count(service)
            print(f"{now - began:7.1f} s  kill {kills:2} ({serve.log.name}); {states}", flush=True)
            serve.start()
            next_kill = now + dice.expovariate(1 / options.gap)
        if now >= next_look:
            next_look = now + 2
            if (state := f"{audit.count(service)} {len(queue)} {kills}") != seen:
                seen, changed = state, now
            if now - changed > STUCK:
                print(f"STUCK for {STUCK:g} s: {audit.waiting(service)}", flush=True)
                return
            if not queue and not sender.waiting and kills == options.kills and idle(service):
                print(f"{now - began:7.1f} s  everything ended; {audit.count(service)}", flush=True)
                return
        time.sleep(0.1)


def _finish(
    service: Service, serve: Serve, sender: Sender, watch: audit.Watch, before: audit.Host, paused: int, folder: Path
) -> list[str]:
    """The audit when it ended by itself, and another one when an operator has aborted what he was left to decide on."""
    print("\nwhen it ended by itself", flush=True)
    facts, wrong = audit.take(service, folder, before, watch, sender.sent, sender.acknowledged)
    left = {build.id for build in service.builds(states=[BuildState.PAUSED], limit=1000)}
    if len(left) != paused:
        wrong.append(f"{len(left)} builds are paused, {paused} have a step that fails")
    print(audit.shown(facts | {"requests that had to be sent again": sender.failures}), flush=True)
    for build_id in left:
        subprocess.run([*serve.argv, "build", "abort", build_id, "--wait"], check=False, stdout=subprocess.DEVNULL)
    code = serve.stop()
    print("\nafter 'build abort' of the paused ones, and SIGTERM", flush=True)
    facts, more = audit.take(service, folder, before, watch, sender.sent, sender.acknowledged)
    print(audit.shown(facts | {"exit code of serve": code}), flush=True)
    wrong += [f"at the end: {line}" for line in more]
    if code != 0:
        wrong.append(f"serve ended with {code}")
    wrong += audit.complaints(folder)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=uuid.uuid4().int % 1_000_000, help="of kills and events")
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--builds", type=int, default=50, help="images; some are built twice")
    parser.add_argument(
        "--machines", type=int, default=20, help="images that are built by boot, besides those that fail"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--gap", type=float, default=25.0, help="seconds between two kills, in the mean")
    parser.add_argument("--minutes", type=float, default=7.0, help="in which the events come")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with _site(options.keep) as folder:
        wrong = soak(folder, options)
    print(f"\n{time.monotonic() - began:.0f} s, seed {options.seed}: " + ("all is well" if not wrong else "WRONG"))
    for line in wrong:
        print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
