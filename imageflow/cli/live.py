"""The view of --wait on a terminal: the steps, progress and ETA of the running one, the last log lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imageflow.cli.present import clip, duration, mark, waits_line
from imageflow.host.visible import visible
from imageflow.model import BuildState, StepState

if TYPE_CHECKING:
    from imageflow.cli.view import BuildView
    from imageflow.model import Step

LOG_LINES = 6
BAR = 24  # characters
STYLES = {
    StepState.PENDING: "dim",
    StepState.RUNNING: "bold cyan",
    StepState.SUCCEEDED: "green",
    StepState.FAILED: "bold red",
    StepState.REVERTING: "yellow",
    StepState.REVERTED: "yellow",
    StepState.REVERT_FAILED: "bold red",
}


class LiveView:
    """Redraws the same few lines, and leaves the last state when it is closed."""

    def __init__(self, out: TextIO, console: Console | None = None) -> None:
        self._console = console or Console(file=out)
        self._live: Live | None = None

    def show(self, pictures: Sequence[BuildView]) -> None:
        """Draw."""
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                vertical_overflow="crop",
                transient=False,
            )
            self._live.start()
        self._live.update(Group(*self._draw(pictures)), refresh=True)

    def _draw(self, pictures: Sequence[BuildView]) -> Iterator[RenderableType]:
        whole = len(pictures) == 1
        for picture in pictures:
            yield _headline(picture)
            if whole or picture.build.state in (BuildState.RUNNING, BuildState.REVERTING, BuildState.PAUSED):
                yield _steps(picture)
                if not picture.build.state.ended:
                    width = max(20, self._console.width - 4)
                    for line in picture.log[-LOG_LINES:]:
                        yield Text(f"  │ {clip(visible(_without_stamp(line)), width)}", style="dim", no_wrap=True)

    def say(self, text: str) -> None:
        """Print a message that stays above the drawing."""
        self._console.print(f"imageflow: {visible(text, lines=True)}", highlight=False, markup=False)

    def close(self) -> None:
        """Stop drawing; the last state stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _headline(picture: BuildView) -> Text:
    build = picture.build
    line = Text.assemble(
        (visible(build.image), "bold"), f"  {build.id}  ", (str(build.state), _state_style(build.state))
    )
    if build.started is not None:
        line.append(f"  {duration((build.ended or build.paused or time.time()) - build.started)}")
    if picture.estimate is not None and picture.estimate.remaining is not None:
        line.append(f"  about {duration(picture.estimate.remaining)} left", style="dim")
    if build.wish is not None and not build.state.ended:
        line.append(f"  (to {build.wish})", style="yellow")
    if picture.waits is not None:
        line.append(f"  {waits_line(build.state, picture.waits)}", style="dim")
    return line


def _state_style(state: BuildState) -> str:
    if state is BuildState.SUCCEEDED:
        return "bold green"
    if state.ended:
        return "bold red"
    return "bold yellow" if state is BuildState.PAUSED else "cyan"


def _steps(picture: BuildView) -> Table:
    table = Table.grid(padding=(0, 1))
    for column in range(4):
        table.add_column(no_wrap=True, justify="right" if column == 2 else "left")
    for name, title, step in picture.steps:
        state = step.state if step is not None else StepState.PENDING
        again = f" (attempt {step.attempt})" if step is not None and step.attempt > 1 else ""
        table.add_row(
            Text(f"  {mark(state)}", style=STYLES[state]),
            Text(visible(f"{title or name}{again}"), style="dim" if state is StepState.PENDING else ""),
            Text(_took(step)),
            _doing(picture, step),
        )
    return table


def _took(step: Step | None) -> str:
    if step is None or step.started is None:
        return ""
    return duration((step.ended or time.time()) - step.started)


def _doing(picture: BuildView, step: Step | None) -> RenderableType:
    if step is None:
        return ""
    if step.error:
        return Text(visible(clip(step.error, 80)), style="red")
    if step.state is not StepState.RUNNING or picture.build.state is not BuildState.RUNNING:
        return Text(visible(step.message or ""), style="dim") if step.state is StepState.RUNNING else ""
    left = picture.estimate.step_remaining if picture.estimate is not None else None
    words = f"{step.progress:4.0%}  {visible(step.message or '')}"
    if left is not None:
        words += f"  about {duration(left)} left"
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=1.0, completed=step.progress, width=BAR), Text(words, style="dim"))
    return row


def _without_stamp(line: str) -> str:
    stamp, _, rest = line.partition(" ")
    return rest if stamp.endswith("Z") else line
