"""Tokens of ours, for a site without keystone: 256 random bits, shown once; only their SHA-256 is kept.

No slow hash: these are for passwords, which can be guessed, and every request checks a token.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import secrets
import zlib

from imageflow.access import DEFAULT_PROJECT, ROLES
from imageflow.errors import BadInput, ImageflowError
from imageflow.persistence import tokens
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.persistence.tokens import ApiToken

PREFIX = "ift_"  # secret scanners find it
LIFE = 90 * 86400.0  # seconds, unless it is asked for otherwise
LOG = logging.getLogger(__name__)
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM = 6  # digits: a CRC-32
_NONE = hashlib.sha256(secrets.token_bytes(32)).hexdigest()  # no token has it


def generate() -> tuple[str, str]:
    """A new token, and its public id."""
    id = secrets.token_hex(6)
    body = f"{PREFIX}{id}_{secrets.token_urlsafe(32).replace('_', '.')}"
    return body + _checksum(body), id


def id_of(token: str) -> str | None:
    """The row to look for; None for what is no token of ours, or a mistyped one."""
    parts = token.split("_")
    if len(parts) != 3 or not token.isascii() or not token.startswith(PREFIX) or len(token) > 100:
        return None
    return parts[1] if token[-_CHECKSUM:] == _checksum(token[:-_CHECKSUM]) else None


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(text: str) -> str:
    number, out = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_DIGITS))
        out = _DIGITS[digit] + out
    return out


class Tokens:
    """Makes, lists, revokes and checks them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, role: str, *, project: str = DEFAULT_PROJECT, life: float | None = LIFE
    ) -> tuple[str, ApiToken]:
        """A new token, and what is known of it from now on. `life`: seconds; None: it never expires."""
        if role not in ROLES:
            raise BadInput(f"there is no role {role!r}", hint=f"one of {', '.join(ROLES)}")
        for what, text, most in (("name", name, 255), ("project", project, 64)):
            if not 0 < len(text) <= most or not text.isprintable():
                raise BadInput(f"the {what} of a token is one line of 1 to {most} characters")
        token, id = generate()
        add = functools.partial(
            tokens.insert, id=id, name=name, project=project, role=role, hash=digest(token), life=life
        )
        return token, self._database.transact(add, REQUEST)

    def select(self) -> list[ApiToken]:
        """All of them, the newest first."""
        return self._database.look(tokens.select, REQUEST)

    def revoke(self, id: str) -> ApiToken:
        """Refuse it from now on; raises NotFound."""
        return self._database.transact(functools.partial(tokens.revoke, id=id), REQUEST)

    def check(self, token: str) -> ApiToken | None:
        """Whose token this is; None: it is not valid. One read, and nothing tells how much of it was right."""
        id = id_of(token)
        if id is None:
            return None
        found = self._database.look(functools.partial(tokens.find, id=id))
        hash = found.hash if found else _NONE
        if not hmac.compare_digest(digest(token), hash) or found is None or not found.valid:
            return None
        return found.token

    def used(self, token: ApiToken) -> None:
        """Note that it was used, at most once an hour. Never raises: a request does not fail for it."""
        try:
            self._database.transact(functools.partial(tokens.touch, id=token.id))
        except ImageflowError as error:
            LOG.warning("the last use of the token %s is not noted: %s", token.id, error)
