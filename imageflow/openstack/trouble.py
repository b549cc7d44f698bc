"""What a cloud's errors mean for a build: ask again, or say so and stop."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import tenacity

from imageflow.control import Control
from imageflow.errors import ImageflowError, NotFound, Refused, Unavailable

T = TypeVar("T")
LOG = logging.getLogger(__name__)
FIRST, LONGEST = 0.5, 10.0  # seconds between two attempts
UNAUTHORISED = 4  # times that a cloud may say 401: a proxy or a cache may be wrong, wrong credentials stay wrong
_POOL = re.compile(
    r"HTTPS?ConnectionPool\(.*?\): Max retries exceeded with url: \S+ \(Caused by .*?(['\"])(?P<why>.*)\1\)+$"
)
_QUOTA = re.compile(
    r"quota|limit (has been )?exceeded|over (a|its) limit|maximum|exceeds|image is too large|media is full",
    re.IGNORECASE,
)


class Busy(Unavailable):
    """The cloud is busy with this thing; it will not be for ever."""


class BrokeOff(Unavailable):
    """A download ended before its end."""

    def __init__(self, message: str = "", *, hint: str = "", at: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.at = at  # the bytes that were there, where the other side ended it; None: the connection broke


class NotAccepted(Unavailable):
    """The cloud does not accept our credentials."""

    hint = "is the application credential still there, and the password right? 'openstack token issue' with the same cloud tells"


class OverQuota(Refused):
    """The project may have no more of this."""

    hint = "see 'openstack quota show', or what else the project has; then resume the build"


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """In the block, what the clients raise becomes NotFound, Unavailable (ask again) or Refused (stop); `what` was tried.

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
    """The error of ours for one of a client's; None when it is none of theirs, but a bug."""
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
        if str(getattr(error, "url", "")).endswith("/auth/tokens"):  # it says nothing of what was asked for
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
    """The answer with an error that glanceclient could not read, as proxies give them; None when that is not what happened."""
    at = error.__traceback__ if isinstance(error, AttributeError | KeyError | TypeError | ValueError) else None
    while at is not None:
        frame = at.tb_frame
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == ("glanceclient.exc", "from_response"):
            return frame.f_locals["response"]
        at = at.tb_next
    return None


def _status(error: BaseException) -> int | None:
    """The HTTP status; 503 where glanceclient has no name for it, and it is not in what the service said."""
    for name in ("http_status", "code"):
        if isinstance(code := getattr(error, name, None), int):
            return code
    if getattr(error, "code", None) == "N/A":
        said = re.search(r"\b(4\d\d|5\d\d) [A-Z]", str(getattr(error, "details", "") or ""))
        return int(said[1]) if said else 503
    return None


def _without_answer(error: BaseException, said: str) -> ImageflowError | None:
    """Whether no answer came, or none that could be understood; by the modules of the clients."""
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
    if type(error) is OSError and error.errno is None:  # requests' word for a missing file of certificates
        return Refused(said, hint="see cacert, cert and key in clouds.yaml")
    if isinstance(
        error,
        keystone.ConnectFailure
        | keystone.ConnectionError
        | keystone.DiscoveryFailure
        | keystone.RetriableConnectionFailure
        | keystone.InvalidResponse
        | glance.CommunicationError
        | glance.InvalidEndpoint  # what glanceclient makes of a timeout
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
    """How many bytes of an answer came before the server closed it; None when that is not what happened."""
    from http.client import IncompleteRead

    looked: list[object] = [error]
    while looked:
        one = looked.pop()
        if isinstance(one, IncompleteRead):  # urllib3's is one, and `partial` is a count there
            return int(str(one.partial)) if str(one.partial).isdecimal() else len(one.partial)
        if isinstance(one, BaseException):
            looked += [*one.args, one.__cause__, one.__context__]
    return None


def _text(error: BaseException) -> str:
    """What it says, in one line: services answer with HTML, too; of a failed connection, why it failed."""
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
    """Do `work` again while it raises Unavailable, for `patience` seconds: its last error then; errors as `translated`.

    The work must be one that may be done twice. Wrong credentials are tried only a few times.
    """
    unauthorised = 0

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
            # A warning: a person at a terminal sees what is waited for.
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
        wait=tenacity.wait_random_exponential(multiplier=FIRST, max=LONGEST, min=FIRST),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )(attempt)
