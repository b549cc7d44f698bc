"""Which provisioners there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from imageflow import provisioners
from imageflow.errors import ConfigError
from imageflow.provisioners.shell import Shell
from imageflow.recipe.plain_secrets import is_secret
from imageflow.recipe.steps import MachineStep
from tests.cpu import spent


@pytest.mark.parametrize("kind", sorted(MachineStep.model_fields.keys() - {"timeout", "checkpoint"}))
def test_every_key_of_configure_has_one(kind: str) -> None:
    assert provisioners.find(kind).title


def test_another_key_has_none() -> None:
    with pytest.raises(ConfigError, match="there is no provisioner 'cfengine'"):
        provisioners.find("cfengine")


class Deaf:
    """A guest that only keeps the commands."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def put(self, data: bytes, path: str, **_: Any) -> None: ...

    def run(self, command: str, **_: Any) -> None:
        self.ran.append(command)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/bin/sh -e \t\r\n", "/bin/sh -e /run"),
        (b"#! /usr/bin/env  python3\n", "/usr/bin/env python3 /run"),
        (b"#!/bin/a b" + b" " * (1 << 20) + b"c\n", "/bin/a b"),
    ],
    ids=["return", "spaces", "long"],
)
def test_an_interpreters_line_is_read_as_linux_reads_it(line: bytes, words: str) -> None:
    guest = Deaf()
    context: Any = SimpleNamespace(guest=guest, control=None, log=None, secret=None)
    with spent() as seconds:
        Shell().apply({"run": (line + b"true\n").decode()}, context)
    assert f"\n{words}" in guest.ran[0]
    assert seconds() < 1


def test_credentials_in_a_long_text_are_looked_for_fast() -> None:
    with spent() as seconds:
        assert not is_secret("MOTD", "a" * (1 << 20))
        assert is_secret("MOTD", "a" * (1 << 20) + " https://ada:secret@example.org/")
    assert seconds() < 1
