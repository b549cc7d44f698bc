"""Which provisioners there are."""

from __future__ import annotations

from imageflow import provisioners


def test_every_kind_is_there() -> None:
    assert provisioners.kinds() == sorted(
        ["ansible", "chef", "files", "packages", "pip", "puppet", "salt", "services", "shell", "users"]
    )
