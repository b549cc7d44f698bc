"""Remastering a 4 GiB installer ISO against xorriso, which changes the same files and keeps the boot records."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import Result, Side, alternate, peak_memory, timed

SIZE = 4 << 30
MEMORY = 100.0  # MiB
_ISOLINUX = Path("/usr/lib/ISOLINUX")
_CONFIG = "default i\nlabel i\n kernel /install.amd/vmlinuz\n append initrd=/install.amd/initrd.gz vga=788 --- quiet\n"

_OURS = """
import sys
from pathlib import Path
from imageflow.host.control import Control
from imageflow.iso import Answers
from imageflow.iso.remaster import remaster
remaster(Path(sys.argv[1]), Path(sys.argv[2]), Answers.PRESEED, b"d-i a/b string c\\n", control=Control())
"""


def _call(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def vendor(folder: Path) -> Path:
    """A hybrid ISO with a thousand packages, `SIZE` bytes of them."""
    tree = folder / "tree"
    for name in ("install.amd", "isolinux", "pool", ".disk"):
        (tree / name).mkdir(parents=True)
    (tree / ".disk/info").write_text("Debian GNU/Linux\n")
    (tree / "install.amd/vmlinuz").write_bytes(b"k" * 8_000_000)
    (tree / "install.amd/initrd.gz").write_bytes(b"i" * 30_000_000)
    shutil.copy(_ISOLINUX / "isolinux.bin", tree / "isolinux")
    (tree / "isolinux/isolinux.cfg").write_text(_CONFIG)
    block = bytes(range(1, 251)) * (SIZE // 1000 // 250)  # no zeros: nothing that could be left out as a hole
    for number in range(1000):
        (tree / f"pool/package-{number:04}_1.0_amd64.deb").write_bytes(block)
    iso = folder / "vendor.iso"
    _call(
        "xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", "VENDOR", "-iso-level", "3",
        "-isohybrid-mbr", _ISOLINUX / "isohdpfx.bin", "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
        "-boot-load-size", "4", "-boot-info-table", "-no-emul-boot", "-o", iso, tree,
    )  # fmt: skip
    shutil.rmtree(tree)
    return iso


def run(rounds: int = 3) -> list[Result]:
    """Both write a whole new ISO; the previous one is removed before each."""
    if shutil.which("xorriso") is None or not _ISOLINUX.is_dir():
        raise SystemExit("install xorriso and isolinux")
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        iso, to, answers = vendor(folder), folder / "out.iso", folder / "answers"
        answers.write_text("d-i a/b string c\n")
        peaks: list[float] = []

        def ours() -> None:
            to.unlink(missing_ok=True)
            peaks.append(peak_memory(sys.executable, "-c", _OURS, iso, to))

        def theirs() -> None:
            to.unlink(missing_ok=True)
            _call(
                "xorriso", "-stdio_sync", "off", "-indev", iso, "-outdev", to, "-boot_image", "any", "replay",
                "-map", answers, "/isolinux/isolinux.cfg", "-map", answers, "/imageflow/preseed.cfg", "-commit",
            )  # fmt: skip

        sides = (Side("imageflow, s", timed(ours)), Side("xorriso, s", timed(theirs)))
        alternate(sides, rounds)
        size = f"{iso.stat().st_size / 1e9:.1f} GB"
    return [
        Result(f"remaster an ISO of {size} against xorriso", sides[0].median, sides[1].median, "s", 1.0),
        Result("memory of it against what it may have", max(peaks), MEMORY, "MiB", 1.0),
    ]
