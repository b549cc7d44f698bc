"""The view of --wait without a terminal: one line per change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from imageflow.cli.present import duration, waits_line
from imageflow.host.visible import visible
from imageflow.model import BuildState, StepState

if TYPE_CHECKING:
    from imageflow.cli.view import BuildView
    from imageflow.model import Build, Step

TENTHS = 10  # a running step reports every tenth of its progress


class LineView:
    """Writes plain lines to stderr; stdout is for the result."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told: dict[object, object] = {}

    def show(self, pictures: Sequence[BuildView]) -> None:
        """Print what changed since the last call."""
        for picture in pictures:
            build = picture.build
            begins = build.state in (BuildState.QUEUED, BuildState.RUNNING, BuildState.REVERTING)
            news = self._is_news(build.id, build.state)
            if news and begins:
                self._line(build, self._of_build(picture))
            if picture.waits is not None and self._is_news((build.id, "waits"), picture.waits.partition(":")[0]):
                self._line(build, waits_line(build.state, picture.waits))
            for number, (name, title, step) in enumerate(picture.steps, 1):
                if step is not None:
                    self._of_step(picture, f"{number}/{len(picture.steps)}", name, title, step)
            if news and not begins:
                self._line(build, self._of_build(picture))

    def _is_news(self, key: object, value: object) -> bool:
        if self._told.get(key) == value:
            return False
        self._told[key] = value
        return True

    @staticmethod
    def _of_build(picture: BuildView) -> str:
        build = picture.build
        if build.state is BuildState.RUNNING and picture.estimate and picture.estimate.remaining is not None:
            return f"running, about {duration(picture.estimate.remaining)}"
        return f"{build.state}: {build.error}" if build.error else str(build.state)

    def _of_step(self, picture: BuildView, where: str, name: str, title: str, step: Step) -> None:
        key = (picture.build.id, name, step.attempt)
        if self._is_news(key, step.state):
            took = duration(step.ended - step.started) if step.started and step.ended else ""
            again = f" (attempt {step.attempt})" if step.attempt > 1 else ""
            text = {
                StepState.RUNNING: f"{title}{again} …",
                StepState.SUCCEEDED: f"{title}{again}: done in {took}",
                StepState.FAILED: f"{title}{again}: failed after {took}: {step.error}",
            }.get(step.state, f"{title}{again}: {step.state}")
            self._line(picture.build, f"{where} {text}")
            return
        tenth = int(step.progress * TENTHS)
        if step.state is StepState.RUNNING and tenth > 0 and self._is_news((*key, "tenth"), tenth):
            left = picture.estimate.step_remaining if picture.estimate else None
            eta = f", about {duration(left)} left" if left is not None else ""
            self._line(picture.build, f"{where} {title}: {step.progress:.0%} {step.message or ''}{eta}")

    def _line(self, build: Build, text: str) -> None:
        self._out.write(f"{visible(f'{build.image} {build.id}: {text}')}\n")
        self._out.flush()

    def say(self, text: str) -> None:
        """Print a message that stays."""
        if self._is_news("say", text):
            self._out.write(f"imageflow: {visible(text, lines=True)}\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing to restore."""
