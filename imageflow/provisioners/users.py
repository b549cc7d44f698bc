"""Accounts, their groups, passwords and keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imageflow.guest import accounts
from imageflow.model import Json
from imageflow.provisioners import Context
from imageflow.provisioners.wording import listing


class Users:
    """`- users: [{name: ada, groups: [adm], sudo: true, authorized_keys: [...], password: {secret: ada}}]`."""

    def title(self, value: Sequence[Json]) -> str:
        return listing("users", [str(user["name"]) for user in value])

    def sources(self, value: Sequence[Json]) -> Sequence[str]:
        return ()

    def check(self, value: Sequence[Json], folder: Path) -> None:
        pass

    def apply(self, value: Sequence[Json], context: Context) -> None:
        passwords = {name: context.secret(secret) for name, secret in accounts.passwords(value).items()}
        context.guest.run(
            "set -eu\n" + accounts.script(value),
            control=context.control,
            log=context.log,
            environment=passwords,
            name=self.title(value),
        )
