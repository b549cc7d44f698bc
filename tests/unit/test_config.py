"""Where a site is, as its configuration says."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from imageflow import config

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"```ini\n(.*?)```|\n\n((?:    [^\n]*\n)*    \[\w+\]\n(?:    [^\n]*\n)+)", re.DOTALL)
_OTHERS = ("oslo_messaging_", "transport_url = rabbit://openstack", "notification_format")  # the services' own files


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


def examples() -> list[str]:
    """The pieces of configuration files in the documentation."""
    pages = [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.md"))]
    return [(found[1] or found[2]) for page in pages for found in _BLOCK.finditer(page.read_text())]


def test_the_documentation_has_examples() -> None:
    assert len([text for text in examples() if "[gerrit]" in text or "[compute]" in text]) == 3


@pytest.mark.parametrize("text", examples())
def test_examples_can_be_copied(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for line in text.splitlines():
        assert re.match(r"\s*#", line) or " #" not in line.removesuffix(" = #"), "a comment needs a line of its own"
    if any(word in text for word in _OTHERS):
        return
    file = tmp_path / "imageflow.conf"
    file.write_text("\n".join(line.strip() for line in text.splitlines()))
    with caplog.at_level(logging.WARNING):
        config.load([str(file)], str(tmp_path))
    assert not caplog.records, caplog.text
