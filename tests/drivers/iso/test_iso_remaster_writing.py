"""Writing a remastered ISO: cancelled, killed, or without room it leaves nothing; copying keeps holes."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from imageflow.errors import Cancelled, NoSpace
from imageflow.host.control import Control
from imageflow.iso import Answers, copying
from imageflow.iso.remaster import remaster
from tests.drivers.iso.remastered_iso import PRESEED, made
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor


def test_a_cancel_leaves_nothing(small: Vendor, tmp_path: Path) -> None:
    control = Control()
    seen: list[float] = []

    def progress(fraction: float) -> None:
        seen.append(fraction)
        control.stop(Cancelled())

    with pytest.raises(Cancelled):
        remaster(small.iso, tmp_path / "x.iso", Answers.PRESEED, PRESEED, control=control, progress=progress)
    assert seen
    assert list(tmp_path.glob("x.iso*")) == []


def test_no_space(small: Vendor, tmp_path: Path) -> None:
    need("mount", root=True)
    at = tmp_path / "full"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", at], check=True)
    try:
        with pytest.raises(NoSpace, match="MiB free"):
            remaster(small.iso, at / "x.iso", Answers.PRESEED, PRESEED, control=Control())
        assert list(at.iterdir()) == []
    finally:
        subprocess.run(["umount", at], check=True)


def test_the_disk_fills_up_while_it_writes(small: Vendor, tmp_path: Path) -> None:
    """A limit of the process on the size of files, which the check before can't see."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(NoSpace):
            remaster(small.iso, tmp_path / "x.iso", Answers.PRESEED, PRESEED, control=Control())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.glob("x.iso*")) == []


def test_a_killed_one_is_made_again(small: Vendor, tmp_path: Path) -> None:
    (tmp_path / "x.iso.partial").write_bytes(b"half" * 1_000_000)
    assert made(small, tmp_path / "x.iso").read_bytes() == made(small, tmp_path / "y.iso").read_bytes()


def test_copying_where_the_kernel_can_not_copy_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file system to another one of an old kernel: sendfile."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(os.urandom(3_000_000))
    with (tmp_path / "a").open("r+b") as source, (tmp_path / "b").open("wb") as to:
        source.truncate(9_000_000)
        copying.copy(source.fileno(), to.fileno(), 9_000_000, Control(), lambda _: None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 4_000_000
