"""Keys of builds: made once, and copied to where another build needs the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

from imageflow.guest import keys


def test_keys_are_copied_also_to_another_file_system_and_replace_none(tmp_path: Path) -> None:
    made = keys.make(tmp_path / "shared")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        to = Path(memory) / "ssh"
        keys.copy(made, to)
        assert (keys.make(to).public, keys.make(to).host_public) == (made.public, made.host_public)
        assert sorted((file.name, file.stat().st_mode & 0o777) for file in to.iterdir()) == [
            ("client_key", 0o600),
            ("host_key", 0o600),
        ]
        keys.copy(keys.make(tmp_path / "other"), to)
        assert keys.make(to).public == made.public
