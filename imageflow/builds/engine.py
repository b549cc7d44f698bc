"""The only importer of taskflow.engines: lays a build's flow down, runs it, holds it at a failure, reverts it.

What a failure means is decided here, with TaskFlow's public parts (each measured in tests/flows):
`never_resolve` keeps everything finished when a step fails; resuming is a reset of the failed steps and
another run; giving up is the intention REVERT on every step and a run without `never_resolve`. The end
of a revert is judged by the steps, never by the flow's state: TaskFlow says REVERTED too early.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import stevedore
from sqlalchemy import Connection
from taskflow import engines, states
from taskflow.engines.action_engine import compiler
from taskflow.exceptions import WrappedFailure
from taskflow.persistence import models
from taskflow.types.failure import Failure

from imageflow.errors import ClaimLost, ConfigError, ImageflowError, MachineLost, NoRoom
from imageflow.model import Build, Json
from imageflow.persistence.flowstore import FlowStore
from imageflow.tasks.base import Task

FLOWS = "imageflow.methods"  # entry points: method -> factory of its flow


def _without_traceback(record: logging.LogRecord) -> bool:
    """A step's error may hold a secret, which only the build's log can mask; the traceback is there, too."""
    record.exc_info = record.exc_text = None
    return True


logging.getLogger("taskflow.engines.action_engine.engine").addFilter(_without_traceback)
_NOT_BEGUN = frozenset({states.PENDING, states.IGNORE})
_UNDONE = frozenset({states.REVERTED, *_NOT_BEGUN})


class FlowEnd(Enum):
    """How a run of a flow ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # a step failed; the finished steps are kept
    SUSPENDED = "suspended"  # stopped between two steps on request
    REVERTED = "reverted"  # everything that could be removed is removed


@dataclass(frozen=True, slots=True)
class FlowResult:
    """The result of a run."""

    end: FlowEnd
    results: Mapping[str, Any]  # what the flow provides, by name; only after success
    step: str | None = None  # the step that failed
    error: str | None = None
    hint: str | None = None
    left: tuple[str, ...] = ()  # descriptions of what a revert could not remove
    waits: str | None = None  # the machine for which there is no room: the step has to run again when there is
    lost: bool = False  # the machine is gone, and the steps done on it have to run again


@functools.cache
def factory_of(method: str) -> str:
    """The dotted name of the flow factory of a build method."""
    for point in stevedore.NamedExtensionManager(FLOWS, []).list_entry_points():
        if point.name == method:
            return str(point.value).replace(":", ".")
    raise ConfigError(f"no flow for the method {method!r}", hint="is the package that provides it installed?")


def arguments_of(method: str, recipe: Json) -> list[Any]:
    """The arguments of a method's flow factory for a canonical recipe: JSON, stored with the flow.

    A method whose flow depends on the recipe has a function `arguments` beside its factory.
    """
    module = importlib.import_module(factory_of(method).rpartition(".")[0])
    arguments: Callable[[Json], list[Any]] | None = getattr(module, "arguments", None)
    return arguments(recipe) if arguments is not None else []


def enlist(
    conn: Connection, store: FlowStore, build: Build, factory: str = "", args: Sequence[Any] | None = None
) -> None:
    """Lay the flow of a build down, in the caller's transaction; `args` of the factory are JSON."""
    if args is None:
        args = [] if factory else arguments_of(build.method, build.recipe)
    book = models.LogBook(f"build {build.id}", uuid=build.flow)
    flow = models.FlowDetail(build.method, uuid=build.flow)
    engines.save_factory_details(flow, factory or factory_of(build.method), list(args), {})
    book.add(flow)
    store.insert(conn, book)


@dataclass(frozen=True, slots=True)
class Outline:
    """The steps of a flow in execution order, and their dependencies."""

    steps: tuple[tuple[str, str], ...]  # (name, title)
    edges: tuple[tuple[str, str], ...]


def outline(method: str, recipe: Json) -> Outline:
    """The steps of a method's flow for a canonical recipe, without a build."""
    from oslo_utils import importutils

    factory = importutils.import_class(factory_of(method))
    return _outline_of(engines.load(factory(*arguments_of(method, recipe))))


def _outline_of(engine: Any) -> Outline:
    engine.compile()
    graph = engine.compilation.execution_graph
    order = [node for node in graph.topological_sort() if graph.nodes[node]["kind"] in compiler.ATOMS]
    edges = [(before.name, after.name) for before in order for after in _next_steps(graph, before)]
    return Outline(tuple((node.name, getattr(node, "title", "") or node.name) for node in order), tuple(edges))


def _next_steps(graph: Any, node: Any) -> list[Any]:
    """The steps that follow a node, skipping the flow nodes in between."""
    found: list[Any] = []
    for after in graph.successors(node):
        found += [after] if graph.nodes[after]["kind"] in compiler.ATOMS else _next_steps(graph, after)
    return found


class FlowRun:
    """One conductor's hold on the flow of one build, from loading to its end."""

    def __init__(self, store: FlowStore, build: Build, inject: Mapping[str, Any], *, revert: bool = False) -> None:
        """`store` is fenced: its writes fail with ClaimLost when the build is no longer ours."""
        connection = store.get_connection()
        detail = connection.get_flow_details(build.flow)
        self._engine = engines.load_from_detail(detail, backend=store, engine="serial", never_resolve=not revert)
        self._engine.compile()
        self._engine.storage.inject(dict(inject), transient=True)
        self._engine.storage.ensure_atoms(self._tasks())
        self._inject = inject

    def _tasks(self) -> list[Task]:
        graph = self._engine.compilation.execution_graph
        return [node for node in graph.topological_sort() if graph.nodes[node]["kind"] in compiler.ATOMS]

    @property
    def positions(self) -> dict[str, int]:
        """Step name -> its place in the flow, from 0."""
        return {task.name: position for position, task in enumerate(self._tasks())}

    def _state(self, task: Task) -> str:
        return str(self._engine.storage.get_atom_state(task.name))

    def failed(self) -> FlowResult | None:
        """The failure at which this flow is held, if a worker died between it and the build's pause."""
        for task in self._tasks():
            if self._state(task) == states.FAILURE:
                return self._failure_of(task)
        return None

    def rewind(self) -> None:
        """Reset the steps in which a worker died, so that their new start is seen: TaskFlow reports only changes."""
        for task in self._tasks():
            if self._state(task) == states.RUNNING:
                self._engine.storage.reset(task.name)

    def forget_lost(self) -> list[str]:
        """Reset every finished step whose result is still needed but no longer exists; -> their names.

        A result is needed when a step that has yet to run takes it as an argument. What was made from a lost result
        is made again with it, so that nothing published mixes two runs.
        """
        finished = {task for task in self._tasks() if self._state(task) == states.SUCCESS}
        again: set[Task] = set()
        while more := {task for task in finished - again if self._must_run_again(task, finished, again)}:
            again |= more
        for task in again:
            self._engine.storage.reset(task.name)
        return [task.name for task in self._tasks() if task in again]

    def _must_run_again(self, task: Task, finished: set[Task], again: set[Task]) -> bool:
        to_run = [other for other in self._tasks() if other in again or other not in finished]
        needed = any(task.provides & other.requires for other in to_run)
        lost = needed and not self._survives(task)
        return lost or any(other.provides & task.requires for other in again)

    def _survives(self, task: Task) -> bool:
        wanted = inspect.signature(task.survives).parameters
        drivers = {name: value for name, value in self._inject.items() if name in wanted}
        return task.survives(self._engine.storage.get(task.name), **drivers)

    def run(self, suspend: Callable[[], bool]) -> FlowResult:
        """Run the unfinished steps; `suspend()` is asked between steps."""
        error = self._drive(suspend)
        for task in self._tasks():
            if self._state(task) == states.FAILURE:
                return self._failure_of(task)
        if error is not None:
            raise error
        if self._engine.storage.get_flow_state() == states.SUSPENDED:
            return FlowResult(FlowEnd.SUSPENDED, {})
        return FlowResult(FlowEnd.SUCCEEDED, self._engine.storage.fetch_all())

    def revert(self, began: Collection[str] = ()) -> FlowResult:
        """Revert every step that began; may be repeated after a crash.

        `began`: steps that may have made something although they were reset since.
        """
        storage = self._engine.storage
        for task in self._tasks():
            if task.name in began and self._state(task) == states.PENDING:
                storage.set_atom_state(task.name, states.REVERTING)  # TaskFlow reverts nothing that is pending
        if any(self._state(task) not in _UNDONE for task in self._tasks()):
            if storage.get_flow_state() == states.REVERTED:
                storage.set_flow_state(states.FAILURE)  # else TaskFlow would reset every step and build again
            for task in self._tasks():
                if self._state(task) == states.REVERT_FAILURE:
                    storage.set_atom_state(task.name, states.REVERTING)
                if storage.get_atom_intention(task.name) != states.REVERT:
                    storage.set_atom_intention(task.name, states.REVERT)
            error = self._drive(lambda: False)
            if error is not None and all(self._state(task) in _UNDONE for task in self._tasks()):
                error = None  # TaskFlow raises the failures that led here once more
            if error is not None and not self._broken_reverts():
                raise error
        return FlowResult(FlowEnd.REVERTED, {}, left=tuple(self._left()))

    def _broken_reverts(self) -> list[Task]:
        return [task for task in self._tasks() if self._state(task) == states.REVERT_FAILURE]

    def _left(self) -> list[str]:
        words = []
        for task in self._tasks():
            state = self._state(task)
            if state == states.REVERTED:
                result = self._engine.storage.get_revert_result(task.name)
                if isinstance(result, dict) and result.get("left"):
                    words.append(f"{task.name}: {result['left']}")
            elif state not in _NOT_BEGUN:
                words.append(f"{task.name}: its revert did not finish ({state.lower()})")
        return words

    def _drive(self, suspend: Callable[[], bool]) -> BaseException | None:
        """Run the engine to its end; -> what it raised, except ClaimLost, which is raised."""
        try:
            steps = self._engine.run_iter()
            next(steps, None)
            asked = False
            while True:
                ask = not asked and suspend()
                asked = asked or ask
                steps.send(ask)
        except StopIteration:
            return None
        except ClaimLost:
            raise
        except WrappedFailure as wrapped:
            if any(failure.check(ClaimLost) for failure in wrapped):
                raise ClaimLost from wrapped
            return Exception(str(wrapped))
        except Exception as error:  # noqa: BLE001 - a step's own error, or the engine's trouble: the caller tells them apart
            return error

    def _failure_of(self, task: Task) -> FlowResult:
        failure = self._engine.storage.get_execute_failures().get(task.name)
        message, hint = describe(failure)
        lost = failure is not None and bool(failure.check(MachineLost))
        waits = None
        if failure is not None and failure.check(NoRoom):
            waits = getattr(failure.exception, "machine", "")  # a restored failure has no exception
        return FlowResult(FlowEnd.FAILED, {}, step=task.name, error=message, hint=hint, waits=waits, lost=lost)


def describe(failure: Failure | None) -> tuple[str, str | None]:
    """A failure in one line for the operator, and its hint if it has one."""
    if failure is None:
        return "the step failed", None
    if isinstance(failure.exception, ImageflowError):
        return failure.exception.message, failure.exception.hint or None
    kind = str(next(iter(failure), "Exception")).rpartition(".")[2]
    text = " ".join(str(failure.exception_str).split())
    if failure.check(ImageflowError):
        return text, None
    return f"{kind}: {text}", "this is a bug in imageflow, or of the machine: see the build log"
