"""The names of pins: stored, and taken apart as they were put together."""

from __future__ import annotations

import pytest

from imageflow.inputs.pins import Kind, PinName, Pins, pin_name, select

PINS = {
    "architecture": "x86_64",
    "archive": "unpinned: no mirror is known",
    "base:glance:debian: 12": "ID:sha256:aa",
    "element:vm": "b",
    "file:roles/x/main.yml": "c",
    "file:roles-of-others": "d",
    "file:a:b": "e",
}


@pytest.mark.parametrize("name", PINS)
def test_a_stored_name_stays_what_it_is(name: str) -> None:
    assert str(PinName.parse(name)) == name


def test_names_are_stored() -> None:
    """They are part of every build's key."""
    assert pin_name(Kind.FILE, "a:b") == "file:a:b" and pin_name(Kind.ISO) == "iso"
    assert sorted(Kind) == sorted(["base", "iso", "image", "git", "watch", "file", "element", "tool", "archive"])


def test_reading() -> None:
    pins = Pins(PINS)
    assert pins.made_from(Kind.BASE) == ("glance:debian: 12", "ID:sha256:aa")
    assert (pins.file("a:b"), pins.file("a")) == ("e", None)
    assert pins.files_below("roles") == pins.files_below("roles/") == {"roles/x/main.yml": "c"}
    assert pins.of(Kind.ELEMENT) == {"vm": "b"}
    assert select(PINS, Kind.ELEMENT, Kind.ARCHIVE) == {"archive": PINS["archive"], "element:vm": "b"}
