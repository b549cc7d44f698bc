"""Translates a cloud's errors for a build: try again, or report and stop."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tenacity

from imageflow.background.backoff import Backoff
from imageflow.errors import ImageflowError, NotFound, Refused, Unavailable
from imageflow.host.control import Control

T = TypeVar("T")
LOG = logging.getLogger(__name__)
FIRST, LONGEST = 0.5, 10.0  # seconds between two attempts: after the first failure, and at most
JITTER = 0.5  # share of each wait, so that many builds do not all return at once to a recovered cloud
UNAUTHORISED = 4  # times that a cloud may answer 401: a proxy or cache error passes, wrong credentials stay wrong
_POOL = re.compile(
    r"HTTPS?ConnectionPool\(.*?\): Max retries exceeded with url: \S+ \(Caused by .*?(['\"])(?P<why>.*)\1\)+$"
)
_QUOTA = re.compile(
    r"quota|limit (has been )?exceeded|over (a|its) limit|maximum|exceeds|image is too large|media is full",
    re.IGNORECASE,
)


class Busy(Unavailable):
    """The cloud is busy with this object; try again later."""


class BrokeOff(Unavailable):
    """A download ended early."""

    def __init__(self, message: str = "", *, hint: str = "", at: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.at = at  # bytes received, if the server ended it; None: the connection broke


class NotAccepted(Unavailable):
    """The cloud does not accept our credentials."""

    hint = "is the application credential still there, and the password right? 'openstack token issue' with the same cloud tells"


class OverQuota(Refused):
    """The project may have no more of this."""

    hint = "see 'openstack quota show', or what else the project has; then resume the build"


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of the clients into NotFound, Unavailable (try again) or Refused (stop); `what` was tried.

    401: NotAccepted, 404 and 410: NotFound, 409: Busy, a full quota: OverQuota.
    """
    try:
        yield
    except ImageflowError:
        raise
    except Exception as error:
        if (known := meaning(error, what)) is None:
            raise
        raise known from error


def meaning(error: BaseException, what: str) -> ImageflowError | None:
    """Our error for a client's error; None when it is not theirs, but a bug."""
    if (answer := _not_understood(error)) is not None:
        from keystoneauth1.exceptions import from_response

        error = from_response(answer, answer.request.method if answer.request else "", answer.url)
    code = _status(error)
    said = f"{what}: {_text(error)}"
    if code is None or code == 0:
        return _without_answer(error, said)
    if code == 401:
        return NotAccepted(said)
    if code in (404, 410):
        if str(getattr(error, "url", "")).endswith("/auth/tokens"):  # it is about the login, not about the request
            return Unavailable(said, hint="is Keystone there? See auth_url in clouds.yaml")
        return NotFound(said)
    if code == 409:
        return Busy(said)
    if code in (403, 413) and _QUOTA.search(str(error)):
        return OverQuota(said)
    if code in (408, 413, 425, 429) or code >= 500:
        return Unavailable(said)
    if code == 403:
        return Refused(said, hint="the account of imageflow needs a role for it: see 'Roles' in doc/openstack.md")
    return Refused(said)


def _not_understood(error: BaseException) -> Any:
    """The error response, such as a proxy's, that glanceclient could not parse; None for any other error."""
    at = error.__traceback__ if isinstance(error, AttributeError | KeyError | TypeError | ValueError) else None
    while at is not None:
        frame = at.tb_frame
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == ("glanceclient.exc", "from_response"):
            return frame.f_locals["response"]
        at = at.tb_next
    return None


def _status(error: BaseException) -> int | None:
    """The HTTP status; 503 if glanceclient has no class for it and the message does not contain it."""
    for name in ("http_status", "code"):
        if isinstance(code := getattr(error, name, None), int):
            return code
    if getattr(error, "code", None) == "N/A":
        said = re.search(r"\b(4\d\d|5\d\d) [A-Z]", str(getattr(error, "details", "") or ""))
        return int(said[1]) if said else 503
    return None


def _without_answer(error: BaseException, said: str) -> ImageflowError | None:
    """Our error if there was no answer, or no intelligible one; decided by the clients' modules."""
    import requests
    import urllib3
    from glanceclient import exc as glance
    from keystoneauth1 import exceptions as keystone
    from novaclient import exceptions as nova

    if isinstance(error, keystone.SSLError | keystone.MissingAuthPlugin | keystone.MissingRequiredOptions):
        return Refused(said, hint="see [openstack] in imageflow.conf, and clouds.yaml: auth_url, cacert")
    if isinstance(error, keystone.EndpointNotFound | glance.EndpointNotFound):
        return Refused(
            said,
            hint="'openstack catalog list' with the same cloud shows services, regions and interfaces;"
            " see region_name and auth_url in clouds.yaml, and [openstack] region",
        )
    if type(error) is OSError and error.errno is None:  # raised by requests for a missing certificate file
        return Refused(said, hint="see cacert, cert and key in clouds.yaml")
    if isinstance(
        error,
        keystone.ConnectFailure
        | keystone.ConnectionError
        | keystone.DiscoveryFailure
        | keystone.RetriableConnectionFailure
        | keystone.InvalidResponse
        | glance.CommunicationError
        | glance.InvalidEndpoint  # glanceclient's error for a timeout
        | requests.RequestException
        | urllib3.exceptions.HTTPError
        | ConnectionError
        | TimeoutError,
    ):
        return Unavailable(said, hint="'openstack token issue' with the same cloud tells whether it answers")
    if isinstance(
        error,
        keystone.ClientException
        | nova.ClientException
        | nova.UnsupportedVersion
        | nova.VersionNotFoundForAPIMethod
        | glance.ClientException,
    ):
        return Refused(said)
    return None


def ended_at(error: BaseException) -> int | None:
    """The number of bytes received before the server closed the connection; None for any other error."""
    from http.client import IncompleteRead

    looked: list[object] = [error]
    while looked:
        one = looked.pop()
        if isinstance(one, IncompleteRead):  # urllib3's subclass has a count in `partial`
            return int(str(one.partial)) if str(one.partial).isdecimal() else len(one.partial)
        if isinstance(one, BaseException):
            looked += [*one.args, one.__cause__, one.__context__]
    return None


def _text(error: BaseException) -> str:
    """The error's message in one line, HTML removed; for a failed connection, the reason."""
    text = re.sub(r"<[^>]*>", " ", str(error))
    text = _POOL.sub(lambda found: found["why"].rpartition("): ")[2], " ".join(text.split()))
    return (text if len(text) <= 300 else text[:299] + "…") or type(error).__name__


def patiently(
    what: str,
    work: Callable[[], T],
    *,
    patience: float,
    control: Control | None = None,
    log: Callable[[str], None] | None = None,
) -> T:
    """Repeat `work` while it raises Unavailable, for up to `patience` seconds; then raise its last error, `translated`.

    The work must be repeatable. Wrong credentials are tried only a few times.
    """
    unauthorised = 0
    backoff = Backoff(FIRST, LONGEST, jitter=JITTER)

    def attempt() -> T:
        if control is not None:
            control.check()
        with translated(what):
            return work()

    def sleep(seconds: float) -> None:
        control.wait(seconds) if control is not None else time.sleep(seconds)

    def tell(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, Unavailable)
        if state.attempt_number == 1:
            # A warning, so that a user at a terminal sees the reason for the wait.
            (log or LOG.warning)(f"{error.message}: trying again, for {patience:.0f} s at most")

    def stop(state: tenacity.RetryCallState) -> bool:
        nonlocal unauthorised
        error = state.outcome.exception() if state.outcome is not None else None
        unauthorised += isinstance(error, NotAccepted)
        if unauthorised >= UNAUTHORISED:
            return True
        return (state.seconds_since_start or 0.0) >= patience

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        stop=stop,
        wait=lambda state: backoff.after(state.attempt_number),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )(attempt)
