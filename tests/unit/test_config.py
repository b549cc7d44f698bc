"""Where a site is, as its configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow import config


def test_the_state_dir_is_named_as_the_kernel_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts and loop devices are found by their path: another name of the same folder would leave them behind."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    for given in ("../real/state", "../link/state", str(tmp_path / "link" / "state"), "state"):
        assert config.load([], given).state_dir == tmp_path.resolve() / "real" / "state"
