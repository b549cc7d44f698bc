"""Everything that `imageflow serve` runs: a conductor, a dispatcher, the listeners, who announces, and who publishes.

Each in a thread of its own. One that fails is started again, after a pause that grows; one that can't work
as it is configured ends the service, with that error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from imageflow import drivers, targets
from imageflow.comparing import Comparing
from imageflow.conductor import Conductor
from imageflow.dispatcher import Dispatcher
from imageflow.errors import ConfigError, ImageflowError
from imageflow.following import Following
from imageflow.inbox import SqlInbox
from imageflow.listeners import Listener, Surroundings
from imageflow.model import Event
from imageflow.publisher import Publisher
from imageflow.registry import SqlWatched
from imageflow.service import Service
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
PAUSE = (1.0, 60.0)  # seconds until what failed is started again: the first time, and at most
STEADY = 60.0  # seconds after which what runs is taken for sound
_STARTUP = 10.0  # seconds that 'ready' waits for listeners that can't reach what they listen to
_GOODBYE = 10.0  # seconds that threads get to end

Worker = Callable[[Flag], None]


class Serving:
    """One process of the service."""

    def __init__(self, service: Service) -> None:
        """Raises ConfigError for a listener, target or cloud that there is not."""
        self._service = service
        config = service.config
        service.store.configured()
        service.compute.configured()
        self._stop = Flag()
        self._conductor = Conductor(service)
        self.inbox = SqlInbox(service.database, wake=self._wake, heard=self._heard)
        self._dispatcher = Dispatcher(service, self.inbox, begun=self._conductor.wake)
        self._comparing = Comparing(service)
        self._error: ConfigError | None = None
        self._waited_for = set(config.listeners)
        self._began = time.monotonic()
        self._workers: dict[str, Worker] = {
            "dispatcher": self._dispatcher.run,
            "recipes in git": Following(config, service.hosted).run,
            "comparison with the cloud": self._comparing.run,
        }
        for name in config.listeners:
            self._workers[f"listener {name}"] = self._listener(name)
        for target in config.announce.targets:
            self._workers[f"announcer {target}"] = self._announcer(target)
        for place in targets.parse(config):
            place.check()
            self._workers[f"publisher {place.name}"] = Publisher(service, place).run

    @property
    def name(self) -> str:
        """Of the conductor."""
        return self._conductor.name

    def _wake(self) -> None:
        self._dispatcher.wake()
        self._comparing.wake()

    def _heard(self, events: Sequence[Event]) -> None:
        for event in events:
            self._service.compute.heard(event)

    def _listener(self, name: str) -> Worker:
        factory = drivers.load("listener", "imageflow.listeners", name, "[listeners] enabled")

        def ready(what: str) -> None:
            LOG.info("listener %s: %s", name, what)
            self._waited_for.discard(name)
            self._conductor.wake()

        around = Surroundings(self._service.config, self.inbox, SqlWatched(self._service.database), ready)

        def listen(stop: Flag) -> None:
            listener: Listener = factory(around)
            listener.run(stop)

        return listen

    def _announcer(self, target: str) -> Worker:
        from imageflow.announce.sender import Sender

        factory = drivers.load("announcer", "imageflow.announcers", target, "[announce] targets")

        def announce(stop: Flag) -> None:
            Sender(self._service.database, self._service.config, target, factory(self._service.config)).run(stop)

        return announce

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until `stop()`; `ready` is called once all listeners listen, or had time to."""
        threads = [
            threading.Thread(target=self._keep, args=(name, worker), name=name, daemon=True)
            for name, worker in self._workers.items()
        ]
        for thread in threads:
            thread.start()
        said = False

        def begun() -> bool:
            nonlocal said
            if not said and (not self._waited_for or time.monotonic() - self._began > _STARTUP):
                said = True
                ready()
            return False

        try:
            self._conductor.run(until=begun)
        finally:
            self._stop.set()
            end = time.monotonic() + _GOODBYE
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
        if self._error is not None:
            raise self._error

    def stop(self, *, now: bool = False) -> None:
        """Listen to nothing more and drain, as Conductor.stop. Safe in a signal handler and from any thread."""
        self._stop.set()
        self._wake()
        self._conductor.stop(now=now)

    def _keep(self, name: str, worker: Worker) -> None:
        """Run a worker again and again until it is to stop."""
        pause = PAUSE[0]
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                worker(self._stop)
            except ConfigError as error:
                self._error = error
                self.stop(now=True)
                return
            except ImageflowError as error:
                LOG.warning("%s: %s; started again in %.0f s", name, error, pause)
            except Exception:
                LOG.exception("%s: a bug in imageflow; started again in %.0f s", name, pause)
            else:
                if not self._stop.is_set():
                    LOG.warning("%s: it has ended; started again in %.0f s", name, pause)
            if time.monotonic() - began > STEADY:
                pause = PAUSE[0]
            self._stop.wait(pause)
            pause = min(pause * 2, PAUSE[1])
