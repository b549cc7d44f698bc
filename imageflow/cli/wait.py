"""Follows builds for --wait: shows progress, runs them when nothing serves, handles Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.background.flag import Flag
from imageflow.cli.follow import Tail
from imageflow.cli.view import BuildView, View
from imageflow.errors import Unavailable
from imageflow.host.visible import visible
from imageflow.model import Build, BuildState

if TYPE_CHECKING:
    from imageflow.builds.conductor import Conductor
    from imageflow.cli.app import App
    from imageflow.service import Service

LOOK = 0.3  # seconds between two looks at the database
LOOK_FOR_CONDUCTORS = 5.0
PATIENCE = 300.0  # seconds that a database may be down before we stop watching
TAIL = 15  # log lines that are kept for the view
INTERRUPTED = 130


def exit_code(builds: Sequence[Build], done: BuildState = BuildState.SUCCEEDED) -> int:
    """0 all done, 1 one failed, 3 one is paused, 130 the user left before the end."""
    codes = [_code(build, done) for build in builds]
    return next((code for code in (1, 3, INTERRUPTED) if code in codes), 0)


def _code(build: Build, done: BuildState) -> int:
    if build.state is done:
        return 0
    if build.state.ended:
        return 1
    return 3 if build.state is BuildState.PAUSED else INTERRUPTED


def settled(build: Build) -> bool:
    """Whether nothing more will happen to this build by itself."""
    return build.state.ended or (build.state is BuildState.PAUSED and build.wish is None)


def tell_if_nothing_serves(app: App, service: Service) -> None:
    """A queued build needs a conductor: tell the user when there is none."""
    if not service.conductors():
        app.note("imageflow: nothing is serving, so nothing happens yet\n(start 'imageflow serve', or use --wait)")


def see_through(app: App, service: Service, builds: Sequence[Build]) -> list[Build]:
    """Wait until every build has settled; -> their states then, or when the user left."""
    if all(map(settled, builds)):
        return list(builds)
    watch = BuildFollower(service, builds, _view(app))
    with _interrupts() as interrupts:
        try:
            watch.run(interrupts)
        finally:
            watch.close()
    _last_words(app, service, watch)
    return watch.builds


def _view(app: App) -> View:
    capable = os.environ.get("TERM", "dumb") != "dumb"  # otherwise nothing can be redrawn in place
    if capable and app.stderr.isatty() and sys.stdin.isatty():
        from imageflow.cli.live import LiveView

        return LiveView(app.stderr)
    from imageflow.cli.lines import LineView

    return LineView(app.stderr)


class Interrupts:
    """Counts SIGINT and SIGTERM, so that no transaction is torn by an exception."""

    def __init__(self) -> None:
        self.seen = Flag()
        self.terminated = False

    def __call__(self, number: int, _frame: Any) -> None:
        if self.seen.is_set() or number == signal.SIGTERM:
            self.terminated = True
        self.seen.set()


@contextlib.contextmanager
def _interrupts() -> Iterator[Interrupts]:
    interrupts = Interrupts()
    before = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BuildFollower:
    """Follows builds until they settle."""

    def __init__(self, service: Service, builds: Sequence[Build], view: View) -> None:
        self._service = service
        self._view = view
        self._latest = {build.id: build for build in builds}
        self._order = list(dict.fromkeys(build.id for build in builds))
        self._titles: dict[str, tuple[tuple[str, str], ...]] = {}
        self._tails = {build.id: Tail(service.log_path(build.id), TAIL) for build in builds}
        self._own: OwnConductor | None = None
        self._log: dict[str, Sequence[str]] = {}
        self.left = False

    @property
    def builds(self) -> list[Build]:
        return [self._latest[id] for id in self._order]

    def last_log(self, build_id: str) -> Sequence[str]:
        """The last lines of a build's log, as shown last."""
        return self._log.get(build_id, ())

    def run(self, interrupts: Interrupts) -> None:
        """Run until all builds have settled or the user leaves."""
        next_check = answered = time.monotonic()
        while True:
            try:
                if time.monotonic() >= next_check:
                    self._conduct()
                    next_check = time.monotonic() + LOOK_FOR_CONDUCTORS
                pictures = [self._picture(id) for id in self._order]
                answered = time.monotonic()
            except Unavailable as error:
                if time.monotonic() - answered > PATIENCE:
                    raise
                self._view.say(f"{error.message}; trying again")
                interrupts.seen.wait(LOOK_FOR_CONDUCTORS)
            else:
                self._view.show(pictures)
                if all(map(settled, self.builds)):
                    return
                interrupts.seen.wait(LOOK)
            if interrupts.seen.is_set() and self._leave(interrupts):
                self.left = True
                return

    def _conduct(self) -> None:
        """Run the builds here when nothing else does."""
        if self._own is not None:
            self._own.check()
        elif not self._service.conductors():
            self._own = OwnConductor(self._service, self._order)

    def _picture(self, build_id: str) -> BuildView:
        build = self._latest[build_id]
        if not settled(build) or build_id not in self._titles:
            build = self._latest[build_id] = self._service.build(build_id)
        if build_id not in self._titles:
            self._titles[build_id] = tuple((name, title) for name, title, _ in self._service.graph(build_id).nodes)
        latest = {step.name: step for step in self._service.steps(build_id)}
        steps = [(name, title or name, latest.get(name)) for name, title in self._titles[build_id]]
        estimate = self._service.estimate(build_id) if build.state is BuildState.RUNNING else None
        self._log[build_id] = self._tails[build_id].lines()
        waits = None if settled(build) else self._service.waits(build_id)
        return BuildView(build, steps, estimate, self._log[build_id], waits)

    def _leave(self, interrupts: Interrupts) -> bool:
        """Ctrl-C: ask, unless there is no terminal; -> whether to stop watching."""
        if interrupts.terminated or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        self._view.close()
        answer = ask(
            "Detach and leave the builds as they are, cancel them, or go on waiting? [d]etach, [c]ancel, [G]o on: ",
            interrupts,
        )
        if answer.startswith("d"):
            return True
        if answer.startswith("c"):
            for build in self.builds:
                if not settled(build):
                    self._service.cancel(build.id)
            self._view.say("cancelling; removing what was made")
        return False

    def close(self) -> None:
        """Hand back the builds that run here; close the view and the files."""
        self._view.close()
        try:
            if self._own is not None:
                self._own.hand_back(self._view.say)
                for build in self.builds:
                    if not settled(build):
                        self._latest[build.id] = self._service.build(build.id)
        finally:
            for tail in self._tails.values():
                tail.close()
            self._view.close()


def ask(question: str, interrupts: Interrupts) -> str:
    """The answer in lower case; 'd' for the end of input or another Ctrl-C."""
    answers: list[str] = []
    interrupts.seen.clear()

    def read() -> None:
        answers.append(sys.stdin.readline())
        interrupts.seen.set()

    sys.stderr.write(f"\n{visible(question)}")
    sys.stderr.flush()
    threading.Thread(target=read, daemon=True).start()  # a handler that returns can't interrupt a read
    interrupts.seen.wait()
    interrupts.seen.clear()
    if not answers or not answers[0]:
        sys.stderr.write("\n")
        return "d"
    return answers[0].strip().lower()


class OwnConductor:
    """A conductor in a thread of this process, only for our builds."""

    def __init__(self, service: Service, build_ids: Sequence[str]) -> None:
        from imageflow.builds.conductor import Conductor

        self._conductor: Conductor = Conductor(service, only=build_ids)
        self._drain = service.config.conductor.drain_timeout
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="conductor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._conductor.run()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self._error = error

    def check(self) -> None:
        """Raise the error that ended the conductor, if any."""
        if self._error is not None:
            raise self._error

    def hand_back(self, say: Callable[[str], None]) -> None:
        """Stop; a running step may end within the drain timeout, or until another Ctrl-C."""
        self._conductor.stop()
        with _interrupts() as again:
            self._thread.join(0.5)
            if self._thread.is_alive():
                say(f"handing back: the running step has up to {self._drain:.0f} s to end; Ctrl-C stops it at once")
            while self._thread.is_alive():
                if again.seen.wait(0.1):
                    again.seen.clear()
                    self._conductor.stop(now=True)
        self.check()


def _last_words(app: App, service: Service, watch: BuildFollower) -> None:
    """Report what is left to know: why a build paused, or how a detached one continues."""
    for build in watch.builds:
        if build.state is BuildState.PAUSED and (lines := watch.last_log(build.id)):
            app.note(f"the last lines of its log ({service.log_path(build.id)}):")
            for line in lines:
                app.note(f"  {line}")
    unsettled = [build.id for build in watch.builds if not settled(build)]
    if watch.left and unsettled:
        if service.conductors():
            app.note("imageflow: detached; the build goes on")
        else:
            app.note("imageflow: detached; the build is queued and continues where it was when a service runs")
            # repeating the command would build a forced one again
            again = "" if all(build.forced for build in watch.builds) else ", or repeat the same command"
            app.note(f"('imageflow serve'{again})")
        app.note(f"(imageflow build show {unsettled[0]})")
