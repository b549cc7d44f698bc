"""How provisioners describe their work to an operator."""

from __future__ import annotations

from collections.abc import Sequence

LIMIT = 58  # characters of a title


def listing(kind: str, names: Sequence[str]) -> str:
    """'packages nginx, curl and 3 more'."""
    for count in range(len(names), 0, -1):
        more = f" and {len(names) - count} more" if count < len(names) else ""
        text = f"{kind} {', '.join(names[:count])}{more}"
        if len(text) <= LIMIT:
            return text
    return short(f"{kind} {names[0]}" if names else kind)


def short(text: str) -> str:
    """One line of at most `LIMIT` characters."""
    line = " ".join(text.split())
    return line if len(line) <= LIMIT else line[: LIMIT - 1] + "…"
