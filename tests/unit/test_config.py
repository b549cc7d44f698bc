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


def test_nobody_at_a_terminal_waits_long_for_a_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config.load([], str(tmp_path))
    assert found.openstack.patience == 300.0
    assert found.impatient.openstack.patience == 10.0
    monkeypatch.setenv("OS_OPENSTACK__PATIENCE", "2")
    assert config.load([], str(tmp_path)).impatient.openstack.patience == 2.0
