"""The types of columns that the three databases store and return exactly alike."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles


class LongText(sa.Text):
    """Text of any length: MariaDB's own TEXT ends at 64 KiB."""


@compiles(LongText, "mysql", "mariadb")
def _long_text(*_: Any, **__: Any) -> str:
    """Not the dialect's own LONGTEXT: importing that loads asyncio, on every database."""
    return "LONGTEXT"


class JsonText(sa.types.TypeDecorator[Any]):
    """Any JSON value, stored as text."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


class Word(sa.types.TypeDecorator[StrEnum]):
    """A member of an enum, stored as its text."""

    impl = sa.String(16)
    cache_ok = True

    def __init__(self, of: type[StrEnum]) -> None:
        super().__init__()
        self.of = of

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self.of(value).value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.of(value)
