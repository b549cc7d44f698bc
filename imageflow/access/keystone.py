"""Keystone's tokens, checked by keystonemiddleware: it is asked as the WSGI callable it is, and nothing of it is written anew.

It checks expiry, revocation, service tokens, and the access rules of application credentials against method and path.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from keystoneauth1.exceptions import ClientException
from oslo_config import cfg

from imageflow.access.options import parsed
from imageflow.background.remembered import Remembered
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable

try:
    from keystonemiddleware.auth_token import AuthProtocol
except ImportError as missing:
    raise ConfigError(
        f"[api] auth = keystone: keystonemiddleware is not installed ({missing.name})",
        hint="pip install 'imageflow[keystone]'",
    ) from missing

GROUP = "keystone_authtoken"
THREADS = 8  # that wait for keystone at most
TIMEOUT = 4  # seconds for keystone to answer, unless http_connect_timeout says otherwise: their own default is for ever
_CACHE = "imageflow.keystone"  # where in the environ it finds the cache
_TOKENS = ("x-auth-token", "x-service-token", "openstack-system-scope")

Environ = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is."""

    user: str
    project: str  # '': the token is for a domain or for the system
    roles: frozenset[str]


class Invalid(Exception):
    """The token is missing, or not valid (any more). `challenge`: of the header WWW-Authenticate."""

    def __init__(self, challenge: str) -> None:
        super().__init__()
        self.challenge = challenge


class Keystone:
    """Asks keystone whose token it is, and knows it for [keystone_authtoken] token_cache_time."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError when [keystone_authtoken] does not say how to reach keystone."""
        conf = parsed(config)
        hint = f"see [{GROUP}] in doc/api.md"
        try:
            # delay_auth_decision stays off: with it a keystone that is away looks like a bad token
            self._check: Callable[..., Iterable[bytes]] = AuthProtocol(
                _admit,
                {
                    "oslo_config_config": conf,
                    "cache": _CACHE,
                    "delay_auth_decision": False,
                    "http_connect_timeout": _timeout(config),
                },
            )
            if not conf[GROUP].auth_type and not conf[GROUP].auth_section:
                raise ConfigError(f"[{GROUP}] auth_type is missing", hint=hint)
            self.remembers = max(0.0, float(conf[GROUP].token_cache_time))  # seconds; -1: nothing
        except ConfigError:
            raise
        except Exception as error:  # its plugins raise what they like for options that don't fit
            raise ConfigError(f"[{GROUP}]: {error}", hint=hint) from error
        self._cache: Remembered[bytes] = Remembered()
        # Keystone may be slow: whose token is known does not queue behind those that it is asked about. A thread stays
        # counted until it is done, also when its request has been answered.
        self._asking, self._known = (ThreadPoolExecutor(THREADS, f"keystone-{one}") for one in ("asking", "known"))

    async def __call__(self, scope: MutableMapping[str, Any], *, known: bool) -> Identity:
        """Whose token a request carries; raises Invalid, or Unavailable. `known`: it was valid a short while ago."""
        environ = _environ(scope) | {_CACHE: self._cache}
        threads = self._known if known else self._asking
        await asyncio.get_running_loop().run_in_executor(threads, self._ask, environ)
        roles = frozenset(role for role in environ.get("HTTP_X_ROLES", "").split(",") if role)
        return Identity(environ.get("HTTP_X_USER_ID", ""), environ.get("HTTP_X_PROJECT_ID", ""), roles)

    def _ask(self, environ: Environ) -> None:
        said: list[tuple[int, dict[str, str]]] = []

        def start(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            said.append((int(status[:3]), {name.lower(): value for name, value in headers}))

        try:
            for _ in self._check(environ, start):
                pass
        except ClientException as error:  # ConnectTimeout, SSLFailure, EndpointNotFound: it lets them through
            raise Unavailable(f"keystone can't be asked: {error}") from error
        status, headers = said[0]
        if status == 401:
            raise Invalid(headers.get("www-authenticate", "Keystone"))
        if status != 204:
            raise Unavailable(f"keystone can't be asked: it is answered with {status}")


def _timeout(config: Config) -> int:
    conf = parsed(config)
    conf.register_opt(cfg.IntOpt("http_connect_timeout", default=TIMEOUT), GROUP)
    return int(conf[GROUP].http_connect_timeout)


def _admit(_environ: Environ, start: Callable[..., Any]) -> list[bytes]:
    start("204 No Content", [])
    return []


def _environ(scope: MutableMapping[str, Any]) -> Environ:
    """Only what the check reads: no header of the client can pass for one of its own."""
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"],  # access rules are matched against it
        "QUERY_STRING": "",
        "SERVER_NAME": "imageflow",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.version": (1, 0),
    }
    for name, value in scope["headers"]:
        if (text := name.decode("latin-1")) in _TOKENS:
            environ[f"HTTP_{text.upper().replace('-', '_')}"] = value.decode("latin-1")
    return environ
