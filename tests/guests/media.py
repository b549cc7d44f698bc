"""Installer ISOs laid out as Debian's are: isolinux and GRUB, El Torito for BIOS and UEFI, bootable as a disk too."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.guests.debs import run
from tests.servers.services import require

PROGRAMS = ("xorriso", "mformat", "mmd", "mcopy", "grub-mkstandalone", "cpio", "truncate")
_GRUB = "part_gpt part_msdos iso9660 fat search search_fs_file normal configfile linux serial terminal all_video"
_ISOLINUX = {
    "isolinux.cfg": "# D-I config version 2.0\npath \ninclude menu.cfg\ndefault menu.c32\nprompt 0\ntimeout 0\n",
    "menu.cfg": "menu hshift 4\nmenu width 70\n\nmenu title Debian GNU/Linux installer menu (BIOS mode)\ninclude txt.cfg\n",
    "txt.cfg": "label install\n\tmenu label ^Install\n\tmenu default\n\tkernel /install.amd/vmlinuz\n"
    "\tappend vga=788 initrd=/install.amd/initrd.gz {arguments}--- quiet \n",
}
_GRUB_MENU = """set timeout=-1
menuentry --hotkey=i 'Install' {{
    set background_color=black
    linux    /install.amd/vmlinuz vga=788 {arguments}--- quiet
    initrd   /install.amd/initrd.gz
}}
"""


def require_parts() -> None:
    """Skip the test when a program to make ISOs is missing."""
    files = (
        "/usr/lib/ISOLINUX/isolinux.bin",
        "/usr/lib/ISOLINUX/isohdpfx.bin",
        "/usr/lib/syslinux/modules/bios/menu.c32",
    )
    require("isolinux, syslinux-common", [f for f in files if not Path(f).exists()])


def iso(to: Path, tree: Path, kernel: Path, initrd: Path, *, info: str, volume: str, arguments: str = "") -> None:
    """Make the ISO `to` from `tree`, with the files for booting added.

    `arguments` are the vendor's own on the kernel's command line.
    """
    for folder in ("install.amd", "isolinux", "boot/grub", ".disk", "EFI/boot"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    os.link(kernel, tree / "install.amd/vmlinuz")
    os.link(initrd, tree / "install.amd/initrd.gz")
    (tree / ".disk/info").write_text(info + "\n")
    shutil.copy("/usr/lib/ISOLINUX/isolinux.bin", tree / "isolinux")
    for module in ("ldlinux", "menu", "libcom32", "libutil"):
        shutil.copy(f"/usr/lib/syslinux/modules/bios/{module}.c32", tree / "isolinux")
    words = {"arguments": f"{arguments} " if arguments else ""}
    for name, text in _ISOLINUX.items():
        (tree / "isolinux" / name).write_text(text.format(**words))
    (tree / "boot/grub/grub.cfg").write_text(_GRUB_MENU.format(**words))
    _efi(tree)
    sums = [
        f"{hashlib.md5(p.read_bytes()).hexdigest()}  ./{p.relative_to(tree)}\n"
        for p in sorted(tree.rglob("*"))
        if p.is_file()
    ]
    (tree / "md5sum.txt").write_text("".join(sums))
    run(
        *("xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", volume, "-J", "-joliet-long", "-iso-level", "3"),
        *("-isohybrid-mbr", "/usr/lib/ISOLINUX/isohdpfx.bin", "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"),
        *("-boot-load-size", "4", "-boot-info-table", "-no-emul-boot", "-eltorito-alt-boot"),
        *("-e", "boot/grub/efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat", "-o", to, tree),
    )


def _efi(tree: Path) -> None:
    early, efi, image = tree / "early.cfg", tree / "EFI/boot/bootx64.efi", tree / "boot/grub/efi.img"
    early.write_text(
        "search --no-floppy --set=root --file /.disk/info\nset prefix=($root)/boot/grub\n"
        "configfile ($root)/boot/grub/grub.cfg\n"
    )
    run(
        *("grub-mkstandalone", "-O", "x86_64-efi", "-o", efi, f"--modules={_GRUB}", f"--install-modules={_GRUB}"),
        *("--locales=", "--fonts=", "--themes=", f"boot/grub/grub.cfg={early}"),
    )
    early.unlink()
    run("truncate", "-s", f"{efi.stat().st_size // 1024 + 512}K", image)
    run("mformat", "-i", image, "-v", "EFI", "::")
    run("mmd", "-i", image, "::/EFI", "::/EFI/boot")
    run("mcopy", "-i", image, efi, "::/EFI/boot/bootx64.efi")


def newc(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive with these files in its top folder, to be appended to an initrd."""
    out = b""
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        fields = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        out += head.ljust(-(-len(head) // 4) * 4, b"\0") + data.ljust(-(-len(data) // 4) * 4, b"\0")
    return out
