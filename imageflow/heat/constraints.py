"""What templates are checked against before anything is made: the catalog and the images of the running imageflow."""

from __future__ import annotations

from typing import Any

from heat.engine import constraints
from keystoneauth1 import exceptions

from imageflow.heat import client


class Unknown(Exception):
    """imageflow does not know it."""


class _Constraint(constraints.BaseCustomConstraint):
    expected_exceptions = (Unknown,)

    def validate_with_client(self, clients: Any, value: str) -> None:
        try:
            self._check(clients.client(client.NAME), value)
        except exceptions.ClientException as error:
            if client.is_refusal(error):
                raise Unknown(client.explain(error)) from error

    def _check(self, api: client.Client, value: str) -> None:
        raise NotImplementedError


class Os(_Constraint):
    """An `os` that the operator's catalog offers."""

    def _check(self, api: client.Client, value: str) -> None:
        known = api.systems()
        if value not in known:
            raise Unknown(f"imageflow's catalog has: {', '.join(sorted(known)) or 'nothing'}")


class Image(_Constraint):
    """The name of an image."""

    def _check(self, api: client.Client, value: str) -> None:
        api.check(image=value)
