"""Every error that imageflow raises on purpose; any other error that reaches a user is a bug in imageflow.

A class's docstring is its default message, `hint` says what to do about it, and `exit_code` is the exit
code of the command line: 1 the work failed, 2 the input was bad and nothing was changed, 3 paused.
"""

from __future__ import annotations

import inspect


class ImageflowError(Exception):
    """imageflow could not do this."""

    hint: str = ""
    exit_code: int = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0]
        if hint:
            self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[ImageflowError], message: str, hint: str) -> ImageflowError:
    error = cls.__new__(cls)
    ImageflowError.__init__(error, message, hint=hint)
    return error


class BadInput(ImageflowError):
    """The input is not usable."""

    exit_code = 2


class RecipeError(BadInput):
    """The recipe is not valid."""


class Exceeded(BadInput):
    """What was given takes more memory, time or room than it may."""

    hint = "make it smaller or simpler: it may be damaged, or meant to do harm"


class NotText(BadInput):
    """The file is not text."""

    hint = "save it as UTF-8"
    line: int = 0  # where; 0: the file as a whole

    def __init__(self, message: str = "", *, hint: str = "", line: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.line = line


class NotFound(BadInput):
    """There is no such thing."""


class Conflict(BadInput):
    """This is not possible in the present state."""


class ConfigError(BadInput):
    """The configuration is not usable."""


class SecretMissing(BadInput):
    """A secret that the recipe refers to is not there."""


class SchemaOutdated(ImageflowError):
    """The database was made by another version of imageflow."""

    hint = "run 'imageflow db upgrade'"


class Unavailable(ImageflowError):
    """Something outside imageflow does not answer right now; trying again may help."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    hint = "check [database] connection and that the server runs"


class DatabaseReadOnly(DatabaseUnavailable):
    """The database takes no writes now."""

    hint = "is it a replica, or its disk read-only? [database] connection has to lead to one that can be written"


class InboxFull(Unavailable):
    """There are as many events as may be kept, and all of them still wait."""

    hint = "[events] max_size and max_count; see 'imageflow event list' and 'imageflow rebuild list' for what waits"


class Refused(ImageflowError):
    """Something outside imageflow said no, and would say no again."""


class TooLarge(Refused):
    """More came than may come."""


class NoSpace(Refused):
    """There is not enough free space."""


class CommandFailed(Refused):
    """A command ended with an error."""

    ended_from_outside = False  # by a signal, or with its session


class Corrupt(Refused):
    """Stored bytes are not what was stored."""


class InputChanged(Refused):
    """An input is not what it was when the build was planned."""

    hint = "create the build again: it will pin the new content; or put the input back, and resume this one"


class MachineTrouble(Refused):
    """An unattended machine will not get any further."""

    hint = "see it with 'imageflow build screenshot' and 'imageflow build console'"


class MachineLost(MachineTrouble):
    """The machine is gone, and so is what was done on it since its last layer.

    The build continues from that layer by itself.
    """

    hint = "who deleted it? Resume starts again from the last layer"


class LockedOut(MachineTrouble):
    """The machine does not let the build in any more."""

    hint = "what a step did: see the build log; its console still works: imageflow build console"


class NotSealed(Refused):
    """The image still holds what must not be published."""


class NoRoom(ImageflowError):
    """There is no room for another machine now."""

    machine: str = ""  # the name of the machine that waits


class TimedOut(ImageflowError):
    """This took longer than its limit."""


class Cancelled(ImageflowError):
    """The build was cancelled."""


class ClaimLost(ImageflowError):
    """This worker no longer holds the build; another one has taken it over."""
