"""Keys of earlier builds in a disk are found, keys of others are not."""

from __future__ import annotations

import json
from pathlib import Path

from imageflow.guest import keys, remains, scrub
from imageflow.host.control import Control


def test_keys_of_builds_are_found_and_others_are_not(tmp_path: Path) -> None:
    old, own = keys.make(tmp_path / "old"), keys.make(tmp_path / "own")
    foreign = own.private.read_text().replace("imageflow", "somebody")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
        for at, text in (
            (5000, old.public),
            (70_001, old.host_public),
            (20 << 20, old.host_private.read_text()),
            (30 << 20, json.dumps({"ssh_keys": {"ed25519_private": old.host_private.read_text()}})),
            (40 << 20, foreign),
            (50 << 20, own.public.rpartition(" ")[0] + " somebody@example"),
        ):
            file.seek(at)
            file.write(text.encode())
    found = remains.key_material(disk, Control())
    assert scrub.scrub(disk, found, Control()) > 0
    left = disk.read_bytes()
    secret = [line for line in old.host_private.read_text().splitlines() if "-----" not in line]
    for line in (*secret[1:-1], old.public.split()[1], old.host_public.split()[1]):
        assert line.encode() not in left
    assert foreign.encode() in left
    assert own.public.split()[1].encode() in left
    assert remains.key_material(disk, Control()) == []
