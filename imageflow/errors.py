"""Every error that imageflow raises on purpose; anything else that reaches a user is a bug of ours.

A class's docstring is its default message, `hint` says what to do about it, and `exit_code` is what
the command line ends with: 1 the work failed, 2 the input was bad and nothing was changed, 3 paused.
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


class Refused(ImageflowError):
    """Something outside imageflow said no, and would say no again."""


class NoSpace(Refused):
    """There is not enough free space."""


class CommandFailed(Refused):
    """A command ended with an error."""


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

    The build goes on from that layer by itself.
    """

    hint = "who deleted it? Resume starts again from the last layer"


class NotSealed(Refused):
    """The image still holds what must not be published."""


class TimedOut(ImageflowError):
    """This took longer than its limit."""


class Cancelled(ImageflowError):
    """The build was cancelled."""


class ClaimLost(ImageflowError):
    """This worker no longer holds the build; another one goes on with it."""
