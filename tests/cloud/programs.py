"""Start and stop a cloud's programs, in the order in which they need each other."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Collection

from tests.cloud.daemons import daemons, environment
from tests.cloud.settings import Settings
from tests.cloud.supervision import Supervision


class Programs:
    """Starts and stops what a cloud runs."""

    def __init__(self, settings: Settings, supervision: Supervision) -> None:
        self._settings = settings
        self._supervision = supervision
        self._daemons = daemons(settings)

    def start(self, *names: str, patience: float = 600) -> None:
        """Start these daemons, each when those that it needs answer; returns when they and those that need them answer.

        A service that lost its broker connects again some seconds later, and messages to it until then are lost.
        """
        waiting = [self._daemons[n] for n in self._daemons if n in names]
        begun: list[str] = []
        answering: set[str] = set()
        end = time.monotonic() + patience
        while waiting or set(begun) - answering:
            for daemon in list(waiting):
                if answering.issuperset(n for n in daemon.needs if n in names):
                    (self._settings.state / daemon.name).mkdir(exist_ok=True)
                    self._supervision.ask(
                        "start",
                        name=daemon.name,
                        argv=daemon.argv,
                        env=environment(self._settings, daemon.environment),
                    )
                    waiting.remove(daemon)
                    begun.append(daemon.name)
            answering.update(n for n in begun if n not in answering and self._daemons[n].answers())
            self.check(*begun)
            assert time.monotonic() < end, f"no answer from {sorted(set(begun) - answering)}: see {self._settings.logs}"
            time.sleep(0.1)
        waiting_for = self._dependants(names)
        while waiting_for := [n for n in waiting_for if not self._daemons[n].answers()]:
            self.check(*waiting_for)
            assert time.monotonic() < end, f"not back: {waiting_for}, see {self._settings.logs}"
            time.sleep(0.1)

    def _dependants(self, names: Collection[str]) -> list[str]:
        """The running daemons that need one of these, directly or not."""
        touched = set(names)
        for daemon in self._daemons.values():
            if touched.intersection(daemon.needs):
                touched.add(daemon.name)
        return [n for n in self._supervision.programs()["running"] if n in touched and n not in names]

    def check(self, *names: str) -> None:
        """Raise AssertionError, with the end of its log, when one of these daemons does not run."""
        running = self._supervision.programs()["running"]
        for name in names:
            assert name in running, f"{name} has ended: {self.tail(name)}"

    def stop(self, name: str, how: signal.Signals | None = None) -> None:
        """Stop a daemon, in order or by a signal; returns when it and its children are gone."""
        daemon = self._daemons[name]
        self._supervision.ask("stop", name=name, how=int(how or daemon.halt), patience=daemon.patience)

    def run(self, *commands: tuple[str, ...], name: str, patience: float = 600, **variables: str) -> Job:
        """Run programs one after the other, in the background."""
        script = " && ".join(shlex.join(c) for c in commands)
        self._supervision.ask("start", name=name, argv=["sh", "-c", script], env=environment(self._settings, variables))
        return Job(self, self._supervision, name, time.monotonic() + patience)

    def tail(self, name: str) -> str:
        """The end of a program's log."""
        return (self._settings.logs / f"{name}.log").read_text(errors="replace")[-2000:]


class Job:
    """Programs that run in the background."""

    def __init__(self, programs: Programs, supervision: Supervision, name: str, end: float) -> None:
        self._programs, self._supervision, self._name, self._end = programs, supervision, name, end

    def wait(self) -> None:
        """Wait until all have succeeded."""
        while self._name not in (ended := self._supervision.programs()["ended"]):
            assert time.monotonic() < self._end, f"{self._name} does not end"
            time.sleep(0.1)
        assert ended[self._name] == 0, f"{self._name} failed: {self._programs.tail(self._name)}"
