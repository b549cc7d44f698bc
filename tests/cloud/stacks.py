"""Stacks on the test cloud's heat, as a user sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import HttpError, NotFound
from keystoneauth1.session import Session

from tests.cloud.settings import REGION

TYPE = "OS::Imageflow::Image"
Template = Mapping[str, Any]


class RefusedTemplate(AssertionError):
    """Heat did not take it."""


def template(image: Mapping[str, Any], **others: Mapping[str, Any]) -> Template:
    """A template with an image `web` of these properties, and other resources."""
    return {
        "heat_template_version": "2018-08-31",
        "resources": {"web": {"type": TYPE, "properties": image}, **others},
        "outputs": {
            "image": {"value": {"get_resource": "web"}},
            **{
                name: {"value": {"get_attr": ["web", name]}}
                for name in ("image_id", "digest", "build_id", "state", "reason", "show")
            },
        },
    }


class Stacks:
    """Heat's API with the session of one user."""

    def __init__(self, session: Session) -> None:
        self._heat = Adapter(session, service_type="orchestration", interface="public", region_name=REGION)

    def create(self, name: str, template: Template, **more: Any) -> None:
        """Begin a stack; RefusedTemplate with what heat says against the template."""
        self._send("POST", "/stacks", stack_name=name, template=template, **more)

    def preview(self, template: str, **parameters: str) -> None:
        """Have heat check a template as for a new stack; RefusedTemplate with what it says against it."""
        self._send("POST", "/stacks/preview", stack_name="preview", template=template, parameters=parameters)

    def update(self, name: str, template: Template | None = None, **more: Any) -> None:
        """Begin an update; without a template: with the one that it has."""
        if template is None:
            self._send("PATCH", self._path(name), **more)
        else:
            self._send("PUT", self._path(name), template=template, **more)

    def act(self, name: str, action: str) -> None:
        """check, suspend, resume, cancel_update, …"""
        self._send("POST", f"{self._path(name)}/actions", **{action: None})

    def delete(self, name: str, patience: float = 120) -> None:
        """Delete it, and wait until it is gone; absent is fine."""
        try:
            self._heat.delete(self._path(name))
        except NotFound:
            return
        end = time.monotonic() + patience
        while (found := self.find(name)) is not None:
            assert found["stack_status"] != "DELETE_FAILED", found["stack_status_reason"]
            assert time.monotonic() < end, found["stack_status"]
            time.sleep(0.5)

    def abandon(self, name: str) -> Any:
        """Let go of it; -> what another stack adopts."""
        return self._heat.delete(f"{self._path(name)}/abandon").json()

    def find(self, name: str) -> dict[str, Any] | None:
        """The stack; None when there is none of this name."""
        try:
            found: dict[str, Any] = self._heat.get(f"/stacks/{name}").json()["stack"]
        except NotFound:
            return None
        return found

    def names(self) -> list[str]:
        """Of all stacks."""
        return [stack["stack_name"] for stack in self._heat.get("/stacks").json()["stacks"]]

    def status(self, name: str) -> str:
        """CREATE_IN_PROGRESS, …"""
        stack = self.find(name)
        return "" if stack is None else str(stack["stack_status"])

    def await_status(self, name: str, status: str, patience: float = 180) -> dict[str, Any]:
        """Wait until it is CREATE_COMPLETE, …; fails when it has ended as something else. -> the stack."""
        return self.await_that(name, lambda stack: stack["stack_status"] == status, status, patience)

    def await_that(
        self, name: str, condition: Callable[[dict[str, Any]], bool], what: str, patience: float = 180
    ) -> dict[str, Any]:
        """Wait for a condition of a stack."""
        end = time.monotonic() + patience
        while True:
            stack = self.find(name)
            assert stack is not None, f"stack {name} is gone"
            if condition(stack):
                return stack
            if not stack["stack_status"].endswith("IN_PROGRESS"):
                time.sleep(2)  # heat may not have begun yet
                stack = self.find(name)
                assert stack is not None
                if condition(stack):
                    return stack
                over = not stack["stack_status"].endswith("IN_PROGRESS")
                assert not over, f"{name}, not {what}: {stack['stack_status']}: {stack['stack_status_reason']}"
            assert time.monotonic() < end, f"{name}, not {what}: {stack['stack_status']}"
            time.sleep(0.5)

    def outputs(self, name: str) -> dict[str, Any]:
        """Its outputs, by name."""
        stack = self.find(name)
        assert stack is not None
        return {output["output_key"]: output.get("output_value") for output in stack["outputs"]}

    def resource(self, name: str, resource: str = "web") -> dict[str, Any]:
        """A resource of it: physical_resource_id, resource_status, resource_status_reason, …"""
        found: dict[str, Any] = self._heat.get(f"{self._path(name)}/resources/{resource}").json()["resource"]
        return found

    def _path(self, name: str) -> str:
        stack = self.find(name)
        if stack is None:
            raise NotFound(f"no stack {name}")
        return f"/stacks/{name}/{stack['id']}"

    def _send(self, method: str, path: str, **body: Any) -> None:
        try:
            self._heat.request(path, method, json=body)
        except HttpError as error:
            if error.http_status != 400:
                raise
            raise RefusedTemplate(error.response.json()["error"]["message"]) from error
