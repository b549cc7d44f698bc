"""Finishing a disk, against bare `qemu-img convert` with the same options.

Both sides in turn make a compressed qcow2 of the same two layers, which contain this machine's /usr/lib.
Ours also has the process's session, log and progress, the virtual size and the SHA-256; the bare side has
none of it, not even the digest.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from bench.measure import Result, Side, alternate, timed
from imageflow.host import disk_files
from imageflow.host.control import Control

SIZE = 512 << 20  # bytes of files
OPTIONS = ("-c", "-m", "16", "-W", "-o", "compression_type=zstd")


def _disk(folder: Path) -> Path:
    """A disk of 2 GiB as a machine leaves it: a layer on top of another."""
    raw, base, top = folder / "disk.raw", folder / "base.qcow2", folder / "top.qcow2"
    with raw.open("wb") as file:
        files = ["sh", "-c", f"tar -C /usr/lib -cf - . 2>/dev/null | head -c {SIZE}"]
        subprocess.run(files, stdout=file, check=True)
        file.truncate(2 << 30)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, base], check=True)
    raw.unlink()
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top]
    subprocess.run(argv, check=True)
    writes = [word for start in range(0, 1024, 16) for word in ("-c", f"write -q -P 7 {start}M 256k")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, top], check=True)
    return top


def run(rounds: int = 5) -> list[Result]:
    """Wall seconds for one file."""
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        folder = Path(name)
        source = _disk(folder)
        control = Control()

        def ours() -> None:
            to = folder / "ours.qcow2"
            size = disk_files.convert(source, "qcow2", to, "qcow2", control=control, log=print)
            disk_files.artifact_of(to, "qcow2", control, size)

        def bare() -> None:
            to = folder / "bare.qcow2"
            to.unlink(missing_ok=True)
            subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", *OPTIONS, source, to], check=True)

        sides = (Side("imageflow, s", timed(ours)), Side("qemu-img convert, s", timed(bare)))
        alternate(sides, rounds)
        sizes = [(folder / name).stat().st_size for name in ("ours.qcow2", "bare.qcow2")]
    return [
        Result(
            "finishing a disk of 512 MiB of files against qemu-img convert",
            sides[0].median,
            sides[1].median,
            "s",
            1.15,
            failed="" if abs(sizes[0] - sizes[1]) < sizes[1] / 100 else f"other files came out: {sizes}",
            notes=(f"{sizes[0] >> 20} MiB come out; ours includes progress, virtual size and SHA-256",),
        )
    ]
