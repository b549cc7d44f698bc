"""Key pairs of machines, for servers that read only the key from their config drive, not the user data."""

from __future__ import annotations

import contextlib
from typing import Any

from imageflow.errors import NotFound
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import Busy, patiently

_PREFIX = "imageflow-"


class Keypairs:
    """The key pairs of our user; each is named after a machine."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def make(self, machine: str, public: str) -> str:
        """Find or create it; -> its name. One with another key is left from an earlier machine, and replaced."""
        name = _PREFIX + machine
        blob = public.split()[1]

        def work() -> str:
            with contextlib.suppress(NotFound):
                found = self._get(name)
                if found.public_key.split()[1] == blob:
                    return name
                self._cloud.nova.keypairs.delete(name)
            self._cloud.nova.keypairs.create(name, public_key=public)
            return name

        return patiently(f"{self._cloud.name}: key pair {name}", work, patience=self._cloud.config.patience)

    def remove(self, machine: str) -> None:
        """Delete it, if it exists; done when Nova reports it as absent."""
        name = _PREFIX + machine

        def work() -> None:
            problem: Exception | None = None
            try:
                self._cloud.nova.keypairs.delete(name)
            except Exception as error:  # noqa: BLE001 - whatever the answer: is it gone?
                problem = error
            with contextlib.suppress(NotFound):
                self._get(name)
                if problem is not None and getattr(problem, "code", None) != 404:
                    raise problem
                raise Busy(f"key pair {name} is still there")

        patiently(f"{self._cloud.name}: key pair {name}", work, patience=self._cloud.config.patience)

    def machines(self) -> set[str]:
        """Names of the machines that have a key pair."""
        found = patiently(
            f"{self._cloud.name}: key pairs",
            lambda: list(self._cloud.nova.keypairs.list()),
            patience=self._cloud.config.patience,
        )
        return {pair.name.removeprefix(_PREFIX) for pair in found if pair.name.startswith(_PREFIX)}

    def _get(self, name: str) -> Any:
        return patiently(
            f"{self._cloud.name}: key pair {name}",
            lambda: self._cloud.nova.keypairs.get(name),
            patience=self._cloud.config.patience,
        )
