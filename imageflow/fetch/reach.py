"""HTTP clients of the library requests whose connections are guarded (guard.py)."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from imageflow.fetch import guard
from imageflow.host.addresses import Policy

_REDIRECTS = 10


def session(reach: Policy) -> requests.Session:
    """An HTTP client that connects as `reach` permits, follows few redirects, and trusts this host's certificates."""
    made = requests.Session()
    made.max_redirects = _REDIRECTS
    made.adapters.clear()
    for scheme in guard.SCHEMES:
        made.mount(f"{scheme}://", _Adapter(reach))
    return made


class _Adapter(HTTPAdapter):
    """Makes guarded connections; trusts this host's certificates besides those shipped with requests."""

    def __init__(self, reach: Policy) -> None:
        self._reach = reach
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._reach)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=ssl.create_default_context(), **kwargs)
        manager.pool_classes_by_scheme = _pools(self._reach)
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        proxies = kwargs.get("proxies") or (args[4] if len(args) > 4 else None)
        if request.url and select_proxy(request.url, proxies):
            guard.check(self._reach, request.url)
        return super().send(request, *args, **kwargs)


def _pools(reach: Policy) -> dict[str, Any]:
    class Plain(_Guarded, HTTPConnection):
        _reach = reach

    class Secure(_Guarded, HTTPSConnection):
        _reach = reach

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Guarded(HTTPConnection):
    """A connection of urllib3; the errors are those that it raises itself."""

    _reach: Policy

    def _new_conn(self) -> socket.socket:
        place = (self._dns_host, self.port)
        timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
        try:
            made = guard.connect(self._reach, place, timeout, self.source_address)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        for option in self.socket_options or ():
            made.setsockopt(*option)
        return made
