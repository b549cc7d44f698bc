"""`imageflow db …`: the schema of the database."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from imageflow.cli.command import ShowOne


class Upgrade(ShowOne):
    """Upgrade the database to the schema of this version of imageflow; may be repeated"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.service import upgrade_database

        return self.dict2columns({"database": upgrade_database(self.app.config()), "state": "up to date"})


class Check(ShowOne):
    """Compare the database with the schema of this version of imageflow; exit code 1 when it differs"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        from imageflow.service import check_database

        dialect, differences = check_database(self.app.config())
        if differences:
            self.exit_code = 1
        state = "up to date" if not differences else "outdated: run 'imageflow db upgrade'"
        return self.dict2columns({"database": dialect, "state": state, "differences": differences})
