"""imageflow's API for Heat: the entry point `heat.clients`, and the few calls that a stack needs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from heat.engine.clients import client_plugin
from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter

NAME = "imageflow"
SERVICE_TYPE = "image-builder"
_PASSING = (429, 502, 503, 504)  # imageflow is being restarted, or has too much to do
_PATIENCE = 30  # seconds for an answer: without it a server that hangs would hold the stack for ever


class Client:
    """Calls the API with the token of one context."""

    def __init__(self, http: Adapter) -> None:
        self._http = http

    def ask(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask for an image under this name; -> the request. Asking twice is one request."""
        return self._send("PUT", f"/v1/requests/{name}", json=body)

    def request(self, name: str) -> dict[str, Any]:
        """How it stands with a request."""
        return self._send("GET", f"/v1/requests/{name}")

    def take_back(self, name: str) -> None:
        """End a request; the image stays."""
        self._send("DELETE", f"/v1/requests/{name}")

    def systems(self) -> list[str]:
        """What the operator's catalog offers as `os`."""
        return [entry["os"] for entry in self._send("GET", "/v1/catalog")["catalog"]]

    def image(self, name: str) -> None:
        """Raise what imageflow says when it has no image of this name, and no recipe for one."""
        try:
            self._send("GET", f"/v1/images/{quote(name, safe='')}/versions")
        except exceptions.NotFound:  # none is built yet
            self._send("PUT", "/v1/requests/heat-validates", params={"dry_run": "true"}, json={"image": name})

    def _send(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(path, method, timeout=_PATIENCE, **more)
        return answer.json() if answer.content else None


def is_passing(error: Exception) -> bool:
    """Whether imageflow could not be asked, and the same call may succeed later on."""
    if isinstance(error, exceptions.HttpError):
        return error.http_status in _PASSING
    return isinstance(error, exceptions.ConnectionError) and not isinstance(error, exceptions.SSLFailure)


def explain(error: Exception) -> str:
    """An error of a call, with what imageflow says to do about it."""
    said = getattr(error, "details", None) or getattr(error, "message", None) or str(error)
    return f"imageflow: {said}"


class ImageflowClientPlugin(client_plugin.ClientPlugin):
    """Makes the client of a context."""

    exceptions_module = exceptions
    # Heat hides the resource from projects whose catalogue has no service of this type
    service_types = [SERVICE_TYPE]  # noqa: RUF012

    def _create(self, version: str | None = None) -> Client:
        return Client(
            Adapter(
                self.context.keystone_session,
                service_type=SERVICE_TYPE,
                interface=self._get_client_option(NAME, "endpoint_type"),
                region_name=self._get_region_name(),
                connect_retries=2,
                client_name="heat-imageflow",
            )
        )

    def is_not_found(self, ex: Exception) -> bool:
        return isinstance(ex, exceptions.NotFound)

    def is_over_limit(self, ex: Exception) -> bool:
        return isinstance(ex, exceptions.HttpError) and ex.http_status == 429

    def is_conflict(self, ex: Exception) -> bool:
        # for a conflict heat deletes the resource and makes it again, five times
        return False
