"""imageflow's API for Heat: the entry point `heat.clients`, and the few calls that a stack needs."""

from __future__ import annotations

import contextlib
from typing import Any

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
        return self._document("PUT", f"/v1/requests/{name}", json=body)

    def request(self, name: str) -> dict[str, Any]:
        """How it stands with a request."""
        return self._document("GET", f"/v1/requests/{name}")

    def take_back(self, name: str) -> None:
        """End a request; the image stays. Absent is fine."""
        with contextlib.suppress(exceptions.NotFound):
            self._send("DELETE", f"/v1/requests/{name}")

    def systems(self) -> list[str]:
        """What the operator's catalog offers as `os`."""
        return [entry["os"] for entry in self._document("GET", "/v1/catalog")["catalog"]]

    def check(self, **asked: Any) -> None:
        """Raise what imageflow would say to a request for `wanted` or `image`; nothing is asked for."""
        body = {**asked, "build": "never"}  # else it would look for the newest inputs
        self._send("PUT", "/v1/requests/heat-validates", params={"dry_run": "true"}, json=body)

    def _document(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send(method, path, **more).json()
        return found

    def _send(self, method: str, path: str, **more: Any) -> Any:
        return self._http.request(path, method, timeout=_PATIENCE, **more)


def is_passing(error: Exception) -> bool:
    """Whether imageflow could not be asked, and the same call may succeed later on."""
    if isinstance(error, exceptions.HttpError):
        return error.http_status in _PASSING
    return isinstance(error, exceptions.ConnectionError) and not isinstance(error, exceptions.SSLError)


def is_refusal(error: Exception) -> bool:
    """Whether imageflow says no.

    If not, nothing is known: it is away; or a stack that has waited for another image has outlived its user's token.
    """
    return not is_passing(error) and not isinstance(error, exceptions.Unauthorized)


def explain(error: Exception) -> str:
    """What went wrong with a call: imageflow's own words where it has answered, because they say what to do."""
    response = getattr(error, "response", None)
    try:
        said = response.json()["message"] if response is not None else None
    except (ValueError, LookupError, TypeError):  # a proxy has answered
        said = None
    return f"imageflow: {said or error}"


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
