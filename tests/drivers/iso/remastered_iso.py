"""ISOs of vendors and small ones, remastering one, and what it holds as other programs than ours read it."""

from __future__ import annotations

import hashlib
import subprocess
from io import BytesIO
from pathlib import Path

import pycdlib

from imageflow.host.control import Control
from imageflow.iso import Answers
from imageflow.iso.remaster import remaster
from tests.drivers import vendor_iso
from tests.drivers.vendor_iso import Vendor

PRESEED = b"d-i a/b string c\n"


def plain(folder: Path, *options: str, tree: dict[str, str] | None = None, without: tuple[str, ...] = ()) -> Vendor:
    """A bootable tree without a kernel that runs; `without`: folders that it would have otherwise."""
    top = folder / "tree"
    files = {"install.amd/vmlinuz": "k", "install.amd/initrd.gz": "i", "isolinux/isolinux.bin": "b" * 2048}
    entry = (
        "default i\nlabel i\n kernel /install.amd/vmlinuz\n append initrd=/install.amd/initrd.gz vga=788 --- quiet\n"
    )
    files["isolinux/isolinux.cfg"] = entry
    for name, text in {**files, **(tree or {})}.items():
        if not name.startswith(tuple(f"{left_out}/" for left_out in without)):
            vendor_iso.write(top / name, text)
    boot = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4"]
    wanted = options or ("-r", "-J", "-joliet-long")
    vendor_iso.run(
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-V",
        "PLAIN",
        "-iso-level",
        "3",
        *wanted,
        *boot,
        "-o",
        folder / "v.iso",
        top,
    )
    return Vendor(folder / "v.iso", top)


def made(
    vendor: Vendor, to: Path, kind: Answers = Answers.PRESEED, answer: bytes = PRESEED, arguments: str = ""
) -> Path:
    remaster(vendor.iso, to, kind, answer, arguments=arguments, control=Control())
    return to


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def extracted(iso: Path, to: Path) -> Path:
    vendor_iso.run("xorriso", "-abort_on", "SORRY", "-osirrox", "on", "-indev", iso, "-extract", "/", to)
    subprocess.run(["chmod", "-R", "u+rwX", to], check=True)
    return to


def read(iso: Path, path: str, names: str = "rr_path") -> bytes:
    image = pycdlib.PyCdlib()
    image.open(str(iso))
    out = BytesIO()
    image.get_file_from_iso_fp(out, **{names: path})
    image.close()
    return out.getvalue()
