"""Makes text that others wrote fit for people's eyes: what would act on a terminal, or hide, is shown escaped.

The one function for all that people read: tables, messages, logs. JSON carries text as it came.
"""

from __future__ import annotations

import logging
import re

_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1 (where 0x9b is a whole escape)
    "\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"  # no width, or a mark of direction
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"  # ends of lines, overrides of direction, no width
    "\ud800-\udfff\U000e0000-\U000e0fff"  # halves of pairs, tags
)
_IN_LINES = re.compile(f"[{_UNSEEN}]")
_IN_LINE = re.compile(f"[\n{_UNSEEN}]")


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text as one line, with control characters, marks of direction and characters without width as \x1b, \u202e, …

    `lines`: line feeds stay, because the text has several lines by our own doing.
    """
    return (_IN_LINES if lines else _IN_LINE).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class VisibleFormatter(logging.Formatter):
    """A record of a log as one line that others' text can't forge; a traceback follows in lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        return visible(super().formatException(ei), lines=True)  # type: ignore[arg-type]
