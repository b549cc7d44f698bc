"""Who may do what: tokens of ours, keystone's, and the policy. HTTP is left to imageflow/api/access.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ROLES = (
    "reader",
    "member",
    "manager",
    "admin",
)  # each one may do all that those before it may, as keystone implies them
DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and in which project."""

    project: str  # its id
    user: str  # its id in keystone, or token:ID for a token of ours
    roles: frozenset[str]
    request_id: str


def implied(roles: Iterable[str]) -> frozenset[str]:
    """These roles, and those that keystone's implied roles add to them."""
    given = frozenset(roles)
    highest = max((ROLES.index(role) for role in given if role in ROLES), default=-1)
    return given | frozenset(ROLES[: highest + 1])
