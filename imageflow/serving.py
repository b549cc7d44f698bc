"""Everything that `imageflow serve` runs: a conductor, a dispatcher, listeners, announcers and publishers.

Each has its own thread. A worker that fails is restarted after a growing pause; one that
can't work as configured ends the service with that error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.builds.conductor import Conductor
from imageflow.config import drivers
from imageflow.errors import ConfigError, ImageflowError
from imageflow.events.bound import Bound
from imageflow.events.inbox import SqlInbox
from imageflow.fetch import guard
from imageflow.images.publisher import Publisher
from imageflow.listeners import Listener, Surroundings
from imageflow.model import Event
from imageflow.rebuilds.cloud_watch import CloudWatch
from imageflow.rebuilds.dispatcher import Dispatcher
from imageflow.registry.follower import RecipeFollower
from imageflow.registry.watched import SqlWatched
from imageflow.service import Service
from imageflow.stores import targets

LOG = logging.getLogger(__name__)
PAUSE = (1.0, 60.0)  # seconds until a failed worker is restarted: the first time, and at most
STEADY = 60.0  # seconds after which a running worker counts as healthy
_STARTUP = 10.0  # seconds that 'ready' waits for listeners that can't reach their source
_GOODBYE = 10.0  # seconds that threads have to end

Worker = Callable[[Flag], None]


class Serving:
    """One process of the service."""

    def __init__(self, service: Service) -> None:
        """Raises ConfigError for an unknown listener, target or cloud."""
        self._service = service
        config = service.config
        service.store.configured()
        service.compute.configured()
        guard.policy(config)
        if notice := service.compute.notice():
            LOG.warning("machines: %s", notice)
        if refused := service.dib_refused():
            LOG.warning("images of the method dib: %s", refused)
        self._stop = Flag()
        self._conductor = Conductor(service)
        self.inbox = SqlInbox(
            service.database, wake=self._wake, heard=self._heard, bound=Bound.of(config, service.database)
        )
        self._dispatcher = Dispatcher(
            config, service.database, service.submitter, service.checkouts, self.inbox, begun=self._conductor.wake
        )
        self._cloud_watch = CloudWatch(config, service.database, service.store)
        self._error: ConfigError | None = None
        self._waited_for = set(config.listeners)
        self._began = time.monotonic()
        self._workers: dict[str, Worker] = {
            "dispatcher": self._dispatcher.run,
            "recipes in git": RecipeFollower(config, service.git_recipes, service.checkouts).run,
            "comparison with the cloud": self._cloud_watch.run,
            "machines' network": service.compute.watch,
        }
        for name in config.listeners:
            self._workers[f"listener {name}"] = self._listener(name)
        for target in config.announce.targets:
            self._workers[f"announcer {target}"] = self._announcer(target)
        for place in targets.parse(config):
            place.check()
            self._workers[f"publisher {place.name}"] = Publisher(
                config, service.database, service.store, service.images, place
            ).run

    @property
    def name(self) -> str:
        """The name of the conductor."""
        return self._conductor.name

    def _wake(self) -> None:
        self._dispatcher.wake()
        self._cloud_watch.wake()

    def _heard(self, events: Sequence[Event]) -> None:
        for event in events:
            self._service.compute.heard(event)

    def _listener(self, name: str) -> Worker:
        factory = drivers.load("listener", "imageflow.listeners", name, "[listeners] enabled")

        def ready(what: str) -> None:
            LOG.info("listener %s: %s", name, what)
            self._waited_for.discard(name)
            self._conductor.wake()

        around = Surroundings(
            self._service.config, self.inbox, SqlWatched(self._service.database), ready, self._service
        )

        def listen(stop: Flag) -> None:
            listener: Listener = factory(around)
            listener.run(stop)

        return listen

    def _announcer(self, target: str) -> Worker:
        from imageflow import announce
        from imageflow.announce.sender import Sender

        factory = announce.load(target)

        def run(stop: Flag) -> None:
            Sender(self._service.database, self._service.config, target, factory(self._service.config)).run(stop)

        return run

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until `stop()`; `ready` is called once all listeners listen, or after _STARTUP."""
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
        """Stop listening and drain, as Conductor.stop does. Safe in a signal handler and from any thread."""
        self._stop.set()
        self._wake()
        self._conductor.stop(now=now)

    def _keep(self, name: str, worker: Worker) -> None:
        """Run a worker, and restart it until it is to stop."""
        backoff = Backoff(*PAUSE)
        while not self._stop.is_set():
            began, error = time.monotonic(), None
            try:
                worker(self._stop)
            except ConfigError as wrong:
                self._error = wrong
                self.stop(now=True)
                return
            except Exception as failed:  # noqa: BLE001 - logged below, with the pause
                error = failed
            if time.monotonic() - began > STEADY:
                backoff.reset()
            pause = backoff.next()
            if isinstance(error, ImageflowError):
                LOG.warning("%s: %s; started again in %.0f s", name, error, pause)
            elif error is not None:
                LOG.error("%s: a bug in imageflow; started again in %.0f s", name, pause, exc_info=error)
            elif not self._stop.is_set():
                LOG.warning("%s: it ended; started again in %.0f s", name, pause)
            self._stop.wait(pause)
