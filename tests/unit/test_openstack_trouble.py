"""What the clients' errors mean: real objects of glanceclient, novaclient, keystoneauth1, requests and urllib3."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from glanceclient import exc as glance
from keystoneauth1 import exceptions as keystone
from keystoneauth1.session import Session
from novaclient import exceptions as nova

from imageflow.errors import Cancelled, Conflict, ImageflowError, NotFound, Refused, Unavailable
from imageflow.host.control import Control
from imageflow.openstack.cloud_errors import (
    UNAUTHORISED,
    Busy,
    NotAccepted,
    OverQuota,
    ended_at,
    meaning,
    patiently,
    translated,
)


def answer(status: int, text: str = "", content_type: str = "text/plain") -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.reason = http.client.responses.get(status, "?")
    made._content = text.encode()
    made.headers["Content-Type"] = content_type
    made.url = "http://cloud/v2/images"
    return made


def of_glance(status: int, text: str = "") -> Exception:
    text = text or f"{status} {http.client.responses.get(status, '')}\n\nThat is all.\n\n"  # as webob says it
    error: Exception = glance.from_response(answer(status, text), text.encode())
    return error


def of_nova(status: int, text: str = "") -> Exception:
    body = {"fault": {"message": text, "code": status}}
    error: Exception = nova.from_response(answer(status), body, "http://cloud/servers", "POST")
    return error


def of_keystone(status: int, text: str = "") -> Exception:
    body = f'{{"error": {{"message": "{text}", "code": {status}}}}}'
    error: Exception = keystone.from_response(answer(status, body, "application/json"), "GET", "http://cloud/v3")
    return error


@pytest.mark.parametrize("service", [of_glance, of_nova, of_keystone])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Refused),
        (401, NotAccepted),
        (403, Refused),
        (404, NotFound),
        (405, Refused),
        (408, Unavailable),
        (409, Busy),
        (410, NotFound),
        (413, Unavailable),
        (429, Unavailable),
        (500, Unavailable),
        (501, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_status_means_the_same_whoever_says_it(
    service: Callable[[int], Exception], status: int, expected: type[ImageflowError]
) -> None:
    found = meaning(service(status), "image x")
    assert type(found) is expected
    assert found is not None
    assert found.message.startswith("image x: ")


@pytest.mark.parametrize(
    "error",
    [
        of_nova(403, "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"),
        of_nova(403, "Maximum number of key pairs exceeded"),
        of_glance(413, "Image exceeds the storage quota: The size of the data 9 will exceed the limit."),
        of_glance(
            413, "The limit has been exceeded on the number of allowed image properties. Attempted: 141, Maximum: 128"
        ),
        of_glance(413, "Image storage media is full: There is not enough disk space on the image storage media."),
        of_glance(413, "The incoming image is too large"),
        nova.Forbidden(
            403, "Project 244cce34 is over a limit for [Resource servers is over limit of 1 due to current usage 1]"
        ),
        of_glance(413, "Request returned failure: Resource image_size_total is over limit of 1000 due to quota"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_is_full_is_not_asked_again(error: Exception) -> None:
    found = meaning(error, "x")
    assert isinstance(found, OverQuota)
    assert "quota" in found.hint


@pytest.mark.parametrize(
    "error",
    [
        keystone.ConnectFailure("refused"),
        keystone.ConnectTimeout("slow"),
        keystone.RetriableConnectionFailure("reset"),
        keystone.UnknownConnectionError("reset", requests.ConnectionError()),
        keystone.DiscoveryFailure("nothing answers"),
        glance.CommunicationError("reset"),
        glance.InvalidEndpoint("what glanceclient calls a timeout"),
        requests.exceptions.ChunkedEncodingError("broken"),
        requests.exceptions.ReadTimeout("slow"),
        requests.ConnectionError("reset"),
        urllib3.exceptions.ProtocolError("broken"),
        urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
        ConnectionResetError(104, "reset by peer"),
        BrokenPipeError(32, "broken pipe"),
        TimeoutError("slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_may_be_one_later(error: Exception) -> None:
    assert type(meaning(error, "x")) is Unavailable


@pytest.mark.parametrize(
    "error",
    [
        keystone.SSLError("certificate verify failed"),
        keystone.EndpointNotFound("no image service in RegionTwo"),
        keystone.MissingRequiredOptions([]),
        keystone.MissingAuthPlugin("no"),
        glance.EndpointNotFound("no"),
        nova.UnsupportedVersion("2.1"),
        nova.VersionNotFoundForAPIMethod("2.1", "x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_configured_wrongly_stays_wrong(error: Exception) -> None:
    assert type(meaning(error, "x")) is Refused


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), AttributeError("x"), FileNotFoundError(2, "x"), OSError(28, "full")]
)
def test_a_bug_stays_one(error: Exception) -> None:
    assert meaning(error, "x") is None
    with pytest.raises(type(error)), translated("x"):
        raise error


def test_a_status_that_glanceclient_has_no_name_for() -> None:
    page = "<html>\n <head>\n  <title>410 Gone</title>\n </head>\n <body>\n  <h1>410 Gone</h1>\n  Image x could not be found after upload.</body></html>"
    error = glance.from_response(answer(410, page, "text/html"), page.encode())
    assert error.code == "N/A"
    assert type(meaning(error, "x")) is NotFound
    error = glance.from_response(answer(504, "", ""), b"")
    assert error.code == "N/A"
    assert type(meaning(error, "x")) is Unavailable


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/json", '{"message": "no Route matched with those values"}'),
        ("application/json", '["no"]'),
        ("application/json", "no"),
        ("application/json", "null"),
        (None, "no"),
        ("text/plain", "\xe4"),
    ],
)
@pytest.mark.parametrize(("status", "expected"), [(404, NotFound), (403, Refused), (503, Unavailable)])
def test_what_a_proxy_says_in_its_own_way(
    content_type: str | None, text: str, status: int, expected: type[ImageflowError]
) -> None:
    said = answer(status, content_type=content_type or "")
    said._content = text.encode("latin-1")
    if content_type is None:
        del said.headers["Content-Type"]
    with pytest.raises(expected) as raised, translated("image x"):
        raise glance.from_response(said, said.content)
    assert type(raised.value) is expected
    assert raised.value.message.startswith("image x: ") and "attribute" not in raised.value.message


def test_nobody_to_log_in_with_is_no_answer() -> None:
    """Else a server or image would count as deleted while Keystone is restarted behind a proxy."""
    said = answer(404, "default backend - 404")
    error = keystone.from_response(said, "POST", "http://cloud/v3/auth/tokens")
    assert type(meaning(error, "server x")) is Unavailable


def test_our_own_errors_pass() -> None:
    ours = Conflict("mine")
    with pytest.raises(Conflict) as raised, translated("x"):
        raise ours
    assert raised.value is ours


def test_it_is_one_line_without_tags() -> None:
    page = (
        "<html><head><title>500</title></head>\n<body><h1>Internal\n Server Error</h1>"
        + "<p>x</p>" * 500
        + "</body></html>"
    )
    found = meaning(of_glance(500, page), "list images")
    assert found is not None
    assert "\n" not in found.message
    assert "<" not in found.message
    assert len(found.message) < 350


def test_where_an_answer_ended() -> None:
    inner = urllib3.exceptions.IncompleteRead(99_999, 1)
    outer = requests.exceptions.ChunkedEncodingError(urllib3.exceptions.ProtocolError("broken", inner))
    assert ended_at(outer) == 99_999
    with pytest.raises(Unavailable) as raised, translated("x"):
        raise outer
    assert ended_at(raised.value) == 99_999
    assert ended_at(http.client.IncompleteRead(b"abc", 5)) == 3
    assert ended_at(requests.ConnectionError(ConnectionResetError(104, "reset"))) is None


def failing(url: str, **session: Any) -> Exception:
    """What keystoneauth1 raises when it asks there."""
    with pytest.raises((keystone.ClientException, OSError)) as raised:
        Session(**session).get(url, connect_retries=0)
    return raised.value


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of loopback at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_why_nobody_answers_is_said(closed: int) -> None:
    found = meaning(failing(f"http://127.0.0.1:{closed}/v3"), "log in")
    assert type(found) is Unavailable
    assert found.message.endswith("Connection refused")
    assert "Pool" not in found.message
    assert "openstack" in found.hint


def test_a_file_of_certificates_that_is_not_there_is_named(closed: int) -> None:
    found = meaning(failing(f"https://127.0.0.1:{closed}/v3", verify="/nowhere/ca.pem"), "log in")
    assert type(found) is Refused
    assert found.message.startswith("log in: ")
    assert "/nowhere/ca.pem" in found.message
    assert "cacert" in found.hint


def test_a_certificate_that_nobody_vouches_for_is_said() -> None:
    why = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)"
    pool = urllib3.HTTPSConnectionPool("cloud.example", 5000)
    inner = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError(1, why))
    said = urllib3.exceptions.MaxRetryError(pool, "/v3/auth/tokens", inner)
    found = meaning(keystone.SSLError(f"SSL exception connecting to https://cloud.example:5000/v3: {said}"), "log in")
    assert found is not None
    assert found.message == f"log in: SSL exception connecting to https://cloud.example:5000/v3: {why}"
    assert "cacert" in found.hint


class Service:
    """Answers with these errors, and then."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), 0

    def __call__(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_it_is_asked_again_and_that_is_told_once() -> None:
    service = Service(of_glance(503), glance.CommunicationError("reset"), of_glance(409))
    told: list[str] = []
    assert patiently("x", service, patience=30.0, log=told.append) == "answer"
    assert service.asked == 4
    assert len(told) == 1


@pytest.mark.parametrize("error", [of_glance(403), of_glance(404), of_nova(403, "Quota exceeded")])
def test_a_no_is_not_asked_again(error: Exception) -> None:
    service = Service(error, error)
    with pytest.raises(ImageflowError):
        patiently("x", service, patience=30.0)
    assert service.asked == 1


def test_wrong_credentials_are_tried_a_few_times() -> None:
    service = Service(*(of_keystone(401) for _ in range(50)))
    with pytest.raises(NotAccepted, match="x: ") as raised:
        patiently("x", service, patience=3600.0)
    assert service.asked == UNAUTHORISED
    assert "credential" in raised.value.hint


def test_other_trouble_does_not_count_as_wrong_credentials() -> None:
    service = Service(*(of_glance(503) for _ in range(UNAUTHORISED - 1)), of_keystone(401))
    assert patiently("x", service, patience=3600.0) == "answer"


def test_patience_ends() -> None:
    service = Service(*(of_glance(500) for _ in range(50)))
    with pytest.raises(Unavailable):
        patiently("x", service, patience=0.0)
    assert service.asked == 1


def test_a_stop_ends_the_asking() -> None:
    control = Control()
    asked = 0

    def work() -> Any:
        nonlocal asked
        asked += 1
        control.stop(Cancelled())
        raise of_glance(500)

    with pytest.raises(Cancelled):
        patiently("x", work, patience=3600.0, control=control)
    assert asked == 1
