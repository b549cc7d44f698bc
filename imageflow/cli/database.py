"""`imageflow db …`: the schema of the database."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from imageflow.cli.command import ShowOne


class Upgrade(ShowOne):
    """Bring the database to what this version of imageflow needs; again is fine"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.service import open_for_upgrade

        database = open_for_upgrade(self.app.config())
        try:
            database.upgrade()
            return self.dict2columns({"database": database.dialect, "state": "up to date"})
        finally:
            database.close()


class Check(ShowOne):
    """Compare the database with what this version of imageflow needs; exit code 1 when it differs"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.service import open_for_upgrade

        database = open_for_upgrade(self.app.config())
        try:
            differences = database.check()
            if differences:
                self.exit_code = 1
            state = "up to date" if not differences else "outdated: run 'imageflow db upgrade'"
            return self.dict2columns({"database": database.dialect, "state": state, "differences": differences})
        finally:
            database.close()
