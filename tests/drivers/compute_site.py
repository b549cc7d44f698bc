"""A place with machines for tests, of each compute driver: what a test does to a machine from outside and inside."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow import config as configuration
from imageflow.compute import Compute, Layer, Machine, MachineSpec, MachineState, Seed, Source
from imageflow.compute.qemu import identity
from imageflow.compute.qemu.driver import QemuCompute
from imageflow.config import Config
from imageflow.host.control import Control
from tests.small.fake_compute import FakeCompute

BUILD = "0123456789ab"
NAME = f"{BUILD}-main"
SPEC = MachineSpec(memory=256)
WORKER = Path(__file__).with_name("compute_worker.py")


def key(letter: str) -> str:
    """Of a layer."""
    return (letter.encode().hex() * 32)[:64]


class Site:
    """A state directory with the machines of one driver."""

    def __init__(self, driver: str, folder: Path, **qemu: object) -> None:
        config = configuration.load(state_dir=str(folder / "state"))
        self.config = dataclasses.replace(
            config,
            compute=driver,
            qemu=dataclasses.replace(config.qemu, accelerator="tcg", **qemu),  # type: ignore[arg-type]
        )
        self.folder = folder
        self.driver = driver
        self.compute = self.open()
        self.log: list[str] = []
        self.workers: list[Worker] = []

    def open(self) -> Compute:
        """As another worker would."""
        return compute(self.driver, self.config)

    def control(self, seconds: float = 60.0) -> Control:
        return Control(time.monotonic() + seconds, build_id=BUILD)

    def base(self, build_id: str = BUILD) -> Layer:
        """What machines start from by default: nothing that boots."""
        found = self.compute.layers.hold(key("b"), build_id)
        if found is None:
            file = self.folder / "base.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "425M"], check=True)
            found = self._add_base(file, build_id)
        return found

    def _add_base(self, file: Path, build_id: str) -> Layer:
        return self.compute.layers.add_base(
            key("b"), file, "qcow2", title="base", build_id=build_id, control=self.control()
        )

    def ensure(self, name: str = NAME, spec: MachineSpec = SPEC, **more: object) -> Machine:
        if "cdrom" not in more:
            more.setdefault("disk", self.base().source)
        build_id = name.partition("-")[0]
        given = {"control": self.control(), "log": self.log.append, **more}
        return self.compute.ensure(name, spec, build_id=build_id, **given)  # type: ignore[arg-type]

    def checkpoint(self, letter: str, name: str = NAME, parent: str | None = None) -> Layer:
        build_id = name.partition("-")[0]
        return self.compute.checkpoint(
            name, key(letter), parent=parent, title=letter, build_id=build_id, control=self.control()
        )

    def crash(self, name: str = NAME) -> None:
        """The machine's process is killed."""
        if isinstance(self.compute, FakeCompute):
            self.compute.crash(name)
            return
        found = [p for p, words in identity.marked(self.config.machines_dir).items() if words[identity.NAME] == name]
        assert len(found) == 1
        os.kill(found[0].pid, signal.SIGKILL)
        assert identity.await_end(found[0], 10.0)

    def running(self) -> int:
        """Processes of machines."""
        return len(identity.marked(self.config.machines_dir))

    def left(self) -> list[Path]:
        """Files of machines."""
        folder = self.config.machines_dir
        return sorted(p for p in folder.rglob("*") if ".queue" not in p.parts[-2:]) if folder.exists() else []

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        until(condition, seconds)

    def worker(self, *words: str) -> Worker:
        """Another process that works here."""
        self.base()
        self.workers.append(Worker(self, words))
        return self.workers[-1]


class QemuSite(Site):
    """With guests that can be worked in."""

    def __init__(self, folder: Path, **qemu: object) -> None:
        from imageflow.guest import keys

        super().__init__("qemu", folder, **qemu)
        self._keys = keys.make(folder / "keys")

    def base(self, build_id: str = BUILD) -> Layer:
        """A system that boots."""
        from tests.guests import tiny

        return self._add_base(tiny.disk(), build_id)

    def seed(self, instance: str = "i-1") -> Seed:
        from imageflow.guest import seed

        return seed.make(self._keys, instance_id=instance)

    @contextlib.contextmanager
    def inside(self, name: str = NAME, *, host_known: bool = True) -> Iterator[Callable[[str], str]]:
        """A shell in a machine."""
        from imageflow.guest import connect, keys

        address = self.compute.address(name)
        access = keys.access(self._keys, address.host, address.port, host_known=host_known)
        with connect.connect(access, control=self.control(), log=self.log.append) as guest:
            yield lambda command: guest.run(command, control=self.control())


class Worker:
    """A process with the driver; it waits for `go`, and can be killed at any instant."""

    def __init__(self, site: Site, words: tuple[str, ...]) -> None:
        qemu = site.config.qemu
        command = [sys.executable, str(WORKER), site.driver, str(site.folder), str(qemu.max_memory or 0), *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> Worker:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self

    def result(self) -> str:
        """Its last line, once it has ended."""
        assert self.process.stdout is not None
        with self.process:
            text = self.process.stdout.read()
        assert self.process.returncode == 0, text
        return text.strip()

    def kill(self, after: float = 0.0) -> None:
        time.sleep(after)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def compute(driver: str, config: Config) -> Compute:
    return QemuCompute(config) if driver == "qemu" else FakeCompute(config)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


@contextlib.contextmanager
def site(driver: str, folder: Path, *, guests: bool = False, **qemu: object) -> Iterator[Site]:
    """A place for a test; nothing of it is left afterwards."""
    from tests.servers.services import missing, require

    require("QEMU", missing("qemu-img", *(["qemu-system-x86_64"] if driver == "qemu" else [])))
    made = QemuSite(folder, **qemu) if guests else Site(driver, folder, **qemu)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()
        for name in made.compute.list():
            made.compute.delete(name)
    assert made.running() == 0
    assert made.left() == []


__all__ = ["BUILD", "NAME", "SPEC", "MachineState", "QemuSite", "Site", "Source", "key", "site", "until"]
