"""The state folder is nobody else's, but for the images in it."""

from __future__ import annotations

import configparser
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow.host import private, process
from imageflow.host.control import Control
from imageflow.service import Service

UNIT = Path(__file__).parents[2] / "etc/systemd/imageflow.service"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_an_older_version_left_open_is_closed(tmp_path: Path) -> None:
    state, images = tmp_path / "state", tmp_path / "state/images"
    for folder in ("machines", "logs", "images"):
        (state / folder).mkdir(parents=True)
        (state / folder).chmod(0o755)
    (state / "imageflow.db").touch()
    (state / "imageflow.db").chmod(0o644)
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o644)
    (state / "cache").symlink_to(outside)
    state.chmod(0o755)
    private.seal(state, images)
    found = {path.name: mode(path) for path in (state, *state.iterdir()) if not path.is_symlink()}
    assert found == {"state": 0o711, "machines": 0o700, "logs": 0o700, "images": 0o755, "imageflow.db": 0o600}
    assert mode(outside) == 0o644
    private.seal(state, tmp_path / "elsewhere")
    assert (mode(state), mode(images)) == (0o700, 0o700)


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "website").mkdir(mode=0o755)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs").chmod(0o755)
    tmp_path.chmod(0o755)
    private.seal(tmp_path, tmp_path / "images")
    assert (mode(tmp_path), mode(tmp_path / "website"), mode(tmp_path / "logs")) == (0o755, 0o755, 0o700)


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_a_new_state_folder(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        config = configuration.load(["/dev/null"], state_dir=str(tmp_path / "state"))
        with Service.open(config) as service:
            _ = service.database
    finally:
        os.umask(before)
    assert mode(config.state_dir) == 0o711
    assert [path for path in config.state_dir.rglob("*") if mode(path) & 0o077] == []
    assert list(config.state_dir.iterdir())


def test_children_make_what_images_need(tmp_path: Path) -> None:
    """The umask is the service's, not that of the programs that fill an image."""
    script = f"import os; os.mkdir({str(tmp_path / 'made')!r}); print(oct(os.umask(0)))"
    with private.umask():
        said = process.run([sys.executable, "-c", script], control=Control(), capture=True)
        (tmp_path / "ours").touch()
    (tmp_path / "afterwards").touch()
    assert said == "0o22"
    assert (mode(tmp_path / "made"), mode(tmp_path / "ours")) == (0o755, 0o600)
    assert mode(tmp_path / "afterwards") & 0o700 == 0o600


def test_images_can_be_read_by_all(tmp_path: Path) -> None:
    from imageflow.model import Artifact
    from imageflow.stores import store

    config = configuration.load(["/dev/null"], state_dir=str(tmp_path / "state"))
    file = tmp_path / "disk.raw"
    file.write_bytes(b"x" * 10)
    import hashlib

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with private.umask():
        images = store(config)
        artifact = Artifact("disk.raw", digest=digest, size=10, format="raw")
        images.add([(file, artifact)], build_id="0123456789ab", control=Control())
        private.seal(config.state_dir, config.store_path)
    found = [path for path in config.store_path.rglob("*") if not path.name.startswith(".")]
    assert found
    assert all(mode(path) & 0o444 == 0o444 for path in (config.store_path, *found))
    assert mode(config.state_dir) == 0o711


def test_the_unit_keeps_to_itself_and_does_not_repeat_a_mistake() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(UNIT)
    service = unit["Service"]
    assert int(service["StateDirectoryMode"], 8) & 0o066 == 0
    assert int(service["UMask"], 8) == 0o077
    assert service["LimitCORE"] == "0"
    assert "2" in service["RestartPreventExitStatus"].split()


@pytest.mark.parametrize(
    "mistake",
    [
        "[listeners]\nenabled = nonsense\n",
        "[qemu]\nallow = http://x/\n",
        "[downloads]\nallow = mirrors, a b\n",
        "[qemu]\nnetwork = x\n",
    ],
)
def test_a_mistake_in_the_configuration_is_exit_code_2(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "imageflow.conf"
    file.write_text(mistake)
    monkeypatch.delenv("OS_DOWNLOADS__ALLOW")  # the environment wins over the file
    words = [sys.executable, "-m", "imageflow.cli", "--config-file", str(file), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        [*words, "serve", "--listen", "none"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
