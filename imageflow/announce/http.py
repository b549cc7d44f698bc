"""CloudEvents to a URL, by POST in structured JSON, signed as standardwebhooks.com specifies."""

from __future__ import annotations

import base64
import binascii
import datetime
import urllib.parse

import requests
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

from imageflow.announce import Stumbled, needed, payload
from imageflow.config import Config
from imageflow.errors import ConfigError, Refused, Unavailable
from imageflow.model import Announcement

_AWAY = {408, 425, 429, 502, 503, 504}  # statuses of a server, or its proxy, that is temporarily unavailable
_PREFIX = "whsec_"


class HttpAnnouncer:
    """Posts each announcement; the target has it when it answers 2xx."""

    def __init__(self, config: Config) -> None:
        self._url = _checked(needed(config.announce.http_url, "http_url"))
        self._place = _place(self._url)
        self._webhook = _webhook(config.announce.http_secret)
        self._timeout = config.announce.timeout
        self._source = payload.source(config)
        self._cdevents = config.announce.cdevents
        self._session: requests.Session | None = None

    def send(self, announcement: Announcement) -> None:
        for event in payload.clouds(announcement, self._source, with_cdevents=self._cdevents):
            self._post(event)

    def _post(self, event: CloudEvent) -> None:
        body = payload.encode(event)
        if self._session is None:
            self._session = requests.Session()
        try:
            with self._session.post(
                self._url,
                data=body,
                headers=self._headers(event.get_id(), body),
                timeout=self._timeout,
                allow_redirects=False,  # a redirect would carry the signed announcement to another server
                stream=True,  # the body of the response is not used
            ) as answer:
                status = answer.status_code
        except requests.exceptions.ConnectTimeout as error:
            raise Unavailable(f"{self._place} does not answer within {self._timeout:g} s") from error
        except requests.exceptions.ReadTimeout as error:
            raise Stumbled(
                f"{self._place} took the announcement and did not answer within {self._timeout:g} s"
            ) from error
        except requests.exceptions.SSLError as error:
            raise Unavailable(f"{self._place}: TLS: {_reason(error)}") from error
        except requests.exceptions.ConnectionError as error:
            reason = _reason(error)
            if _connected(error):
                raise Stumbled(f"{self._place} closed the connection instead of answering: {reason}") from error
            raise Unavailable(f"{self._place} does not answer: {reason}") from error
        except requests.exceptions.RequestException as error:
            raise Stumbled(f"{self._place}: {type(error).__name__}") from error
        if 200 <= status < 300:
            return
        if status in _AWAY:
            raise Unavailable(f"{self._place} answered {status}")
        if status >= 500:
            raise Stumbled(f"{self._place} answered {status}")
        raise Refused(f"{self._place} answered {status}", hint="redirects are not followed" if status < 400 else "")

    def _headers(self, id: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": f"{payload.CONTENT_TYPE}; charset=UTF-8", "User-Agent": "imageflow"}
        if self._webhook is not None:
            now = datetime.datetime.now(datetime.UTC)
            headers |= {
                "webhook-id": id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": self._webhook.sign(id, now, body.decode()),
            }
        return headers

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _webhook(secret: str | None) -> Webhook | None:
    if not secret:
        return None
    if not secret.startswith(_PREFIX):
        return Webhook(secret.encode())
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError("[announce] http_secret: what follows whsec_ is not base64", hint="see standardwebhooks.com")
    return Webhook(key)


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("[announce] http_url is not an HTTP URL", hint="such as https://example.org/hooks/imageflow")
    return url


def _place(url: str) -> str:
    """The URL as messages may show it: without the password, and without what follows the host, which may hold a token."""
    parts = urllib.parse.urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def _causes(error: BaseException) -> list[BaseException]:
    """An error of requests and its causes, down to the system's."""
    found, todo = [], [error]
    while todo:
        one = todo.pop()
        found.append(one)
        inner = [one.__cause__, getattr(one, "reason", None), *one.args]
        todo += [x for x in inner if isinstance(x, BaseException) and x not in found]
    return found


def _reason(error: BaseException) -> str:
    """In one line, without the URL that requests puts into its messages."""
    for one in reversed(_causes(error)):
        if isinstance(one, OSError) and one.strerror:
            return str(one.strerror)
    return type(_causes(error)[-1]).__name__


def _connected(error: BaseException) -> bool:
    """Whether an existing connection broke, rather than failed to open."""
    from urllib3.exceptions import NewConnectionError, ProtocolError

    causes = _causes(error)
    return any(isinstance(x, ProtocolError) for x in causes) and not any(
        isinstance(x, NewConnectionError) for x in causes
    )
