"""What every task shares: a revert that never raises, results that can be stored, drivers by name.

A task is named by its `step` (a stored contract: never renamed without an alias). These arguments
can be named in the signature of `execute` and `revert`; the engine injects them and never stores them:

    build     imageflow.model.Build      the build, with its recipe and pins
    config    imageflow.config.Config
    log       imageflow.host.buildlog.Log   writes lines to the build's log, and masks secrets
    progress  Callable[[float, str], None]   0 … 1 and the phase; call it as often as you like
    control   imageflow.host.control.Control  check() it in loops, give it to process.run
    ledger    Ledger                     open() before a resource is made, close() after it is gone
    store     imageflow.stores.Store     where images live
    compute   imageflow.compute.Compute  where machines run
    bench     imageflow.tasks.workbench.Workbench   all of these but store and secret, for the machine that the image
                                         is made on; only where the method makes it on one
    secret    Callable[[str], str]       a secret's value by its name; masked in the log from then on
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from taskflow import task

from imageflow.errors import ImageflowError, NoSpace
from imageflow.model import ResourceKind


class Ledger(Protocol):
    """The ledger of one build: the resources it made, or is about to make, and has not removed yet."""

    def open(self, kind: ResourceKind, name: str) -> None:
        """Record that this resource is about to be made; idempotent."""

    def close(self, kind: ResourceKind, name: str) -> None:
        """Record that this resource is gone or has another owner; an unknown one is fine."""


class Task(task.Task):
    """One step of a build; `execute` finds or creates, because it may run again after a crash.

    `revert` may raise: the failure is logged, what is left stays in the ledger for the janitor, and
    the steps before are reverted all the same. It gets `result=None` when a worker died in `execute`.
    """

    step: ClassVar[str]  # its name in every flow
    title: ClassVar[str] = ""  # shown to operators, e.g. 'Build the disk'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(self.step, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "execute" in cls.__dict__:
            cls.execute = _checked(cls.__dict__["execute"])
        if "revert" in cls.__dict__:
            cls.revert = _never_raising(cls.__dict__["revert"])

    def survives(self, result: Any, *_: Any, **drivers: Any) -> bool:
        """Whether the result of `execute` still exists; False runs this step and the later ones again.

        Asked when a build goes on after a takeover or a resume, maybe on another machine. Besides `result` it can
        name any of the arguments above.
        """
        return True


def _checked(execute: Callable[..., Any]) -> Callable[..., Any]:
    """An execute whose result can be stored: otherwise TaskFlow would leave the step running for ever."""

    @functools.wraps(execute)
    def wrapper(self: Task, *args: Any, **kwargs: Any) -> Any:
        try:
            result = execute(self, *args, **kwargs)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"no space left: {error}", hint="free some space, then resume the build") from error
            raise
        json.dumps(result)
        return result

    return wrapper


def _never_raising(revert: Callable[..., Any]) -> Callable[..., Any]:
    """A revert that logs instead of raising: TaskFlow stops reverting the earlier steps when one raises.

    TaskFlow passes `result` and `flow_failures` to every revert; they are dropped unless the revert names them.
    """
    named = inspect.signature(revert).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    unwanted = set() if takes_all else {"result", "flow_failures"} - named.keys()

    @functools.wraps(revert)
    def wrapper(self: Task, *args: Any, **kwargs: Any) -> Any:
        try:
            revert(self, *args, **{name: value for name, value in kwargs.items() if name not in unwanted})
        except ImageflowError as error:
            return {"left": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the steps before must be reverted too
            return {"left": f"{type(error).__name__}: {error}"}
        return None

    return wrapper
