"""ISOs as vendors make them, with a kernel that starts in two seconds: Debian's, Fedora's and Ubuntu's ways."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from imageflow.iso import cpio
from tests.drivers.machine import need

KERNEL = Path("/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/linux")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
HYBRID = Path("/usr/lib/ISOLINUX/isohdpfx.bin")
MODULES = Path("/usr/lib/syslinux/modules/bios")
GRUB = Path("/usr/lib/grub/x86_64-efi/moddep.lst")
GRUB_PC = Path("/usr/lib/grub/i386-pc/boot_hybrid.img")
OVMF = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/ovmf/OVMF.fd"))

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
echo "GUEST cmdline: $(/bin/busybox cat /proc/cmdline)"
for file in /preseed.cfg /ks.cfg /autoinst.xml; do
  [ -f $file ] && echo "GUEST answers $file: $(/bin/busybox head -n 1 $file)"
done
echo GUEST-END
/bin/busybox poweroff -f
"""
_EARLY = """search --no-floppy --set=root --file /.disk/info
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
"""


def need_iso_tools() -> None:
    """Skip (under CI=true: fail) where such ISOs can't be made."""
    need("xorriso", "busybox", "mformat", "mcopy", "mmd", "grub-mkstandalone", "grub-mkimage")
    for part in (KERNEL, ISOLINUX, HYBRID, MODULES / "ldlinux.c32", GRUB, GRUB_PC):
        if not part.exists():
            need(str(part))


def ovmf() -> Path:
    """UEFI firmware for QEMU."""
    found = next((path for path in OVMF if path.exists()), None)
    if found is None:
        need("OVMF")
    assert found is not None
    return found


@dataclass(frozen=True)
class Vendor:
    """One vendor's ISO and the folder it was made of."""

    iso: Path
    tree: Path


def run(*command: object, cwd: Path | None = None) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def initrd() -> bytes:
    """Says on the first serial console what it was started with, and powers off."""
    busybox = Path(shutil.which("busybox") or "")
    plain = cpio.initrd({"bin/busybox": busybox.read_bytes(), "init": _INIT.encode(), "dev/.keep": b""})
    return gzip.compress(gzip.decompress(plain).replace(b"000081800000", b"000081ED0000"), 1)


def efi_image(to: Path, work: Path, early: str, files: dict[str, str]) -> None:
    """A FAT image with GRUB; `early` is inside GRUB, `files` beside it."""
    write(work / "early.cfg", early)
    modules = "part_gpt part_msdos iso9660 fat search search_fs_file search_label normal configfile linux serial terminal all_video test echo"
    run(
        "grub-mkstandalone", "-O", "x86_64-efi", "-o", work / "bootx64.efi", f"--modules={modules}",
        f"--install-modules={modules}",  # not gigabytes of fonts and languages
        "--locales=", "--fonts=", "--themes=", f"boot/grub/grub.cfg={work / 'early.cfg'}",
    )  # fmt: skip
    size = (work / "bootx64.efi").stat().st_size + (512 << 10)
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as file:
        file.truncate(-(-size // (1 << 20)) << 20)
    run("mformat", "-i", to, "-v", "EFI", "::")
    run("mmd", "-i", to, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", to, work / "bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI")
    for name, text in files.items():
        write(work / "inside", text)
        run("mcopy", "-i", to, work / "inside", f"::/EFI/BOOT/{name}")


def master(tree: Path, iso: Path, label: str, *extra: object) -> None:
    """As Debian's and Fedora's ISOs: isolinux and GRUB, bootable as CD and as disk."""
    run(
        "xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", label, "-J", "-joliet-long", "-iso-level", "3",
        "-isohybrid-mbr", HYBRID, "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
        "-boot-load-size", "4", "-boot-info-table", "-no-emul-boot",
        "-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat",
        *extra, "-o", iso, tree,
    )  # fmt: skip


def _common(tree: Path, kernel: str, initrds: list[str]) -> None:
    for path in (kernel, *initrds):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(KERNEL, tree / kernel)
    for path in initrds:
        (tree / path).write_bytes(initrd())
    (tree / "isolinux").mkdir(exist_ok=True)
    shutil.copy(ISOLINUX, tree / "isolinux")
    for module in ("ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"):
        shutil.copy(MODULES / module, tree / "isolinux")
    write(tree / "a/b/c/d/e/f/g/h/i/j" / "deep.txt", "ten levels\n")
    write(tree / "pool" / ("n" * 240 + ".txt"), "a long name\n")
    for number in range(60):
        write(tree / f"pool/main/{number}/package_{number}_with-a-name~of+its.own.deb", f"{number}\n" * 100)


def debian(folder: Path, *extra: object) -> Vendor:
    """Menus in included files, a graphical default, GRUB's menu on the CD only."""
    tree = folder / "debian"
    _common(tree, "install.amd/vmlinuz", ["install.amd/initrd.gz", "install.amd/gtk/initrd.gz"])
    write(tree / ".disk/info", 'Debian GNU/Linux 12.7.0 "Bookworm" - Official amd64 NETINST\n')
    write(tree / "isolinux/isolinux.cfg", "path \ninclude menu.cfg\ndefault menu.c32\nprompt 0\ntimeout 0\n")
    write(tree / "isolinux/menu.cfg", "menu hshift 4\ninclude gtk.cfg\ninclude txt.cfg\ninclude rq.cfg\n")
    write(
        tree / "isolinux/gtk.cfg",
        "default installgui\nlabel installgui\n\tmenu label ^Graphical install\n\tmenu default\n"
        "\tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd=/install.amd/gtk/initrd.gz --- quiet \n",
    )
    write(
        tree / "isolinux/txt.cfg",
        "label install\n\tmenu label ^Install\n\tkernel /install.amd/vmlinuz\n"
        "\tappend vga=788 initrd=/install.amd/initrd.gz --- quiet \n",
    )
    write(
        tree / "isolinux/rq.cfg",
        "label rescue\n\tmenu label ^Rescue mode\n\tkernel /install.amd/vmlinuz\n"
        "\tappend vga=788 initrd=/install.amd/initrd.gz rescue/enable=true --- quiet \n",
    )
    write(
        tree / "boot/grub/grub.cfg",
        "if [ x$feature_default_font_path = xy ] ; then\n   font=unicode\nfi\nset timeout_style=menu\n"
        "menuentry --hotkey=g 'Graphical install' {\n    set background_color=black\n"
        "    linux    /install.amd/vmlinuz vga=788 --- quiet\n    initrd   /install.amd/gtk/initrd.gz\n}\n"
        "menuentry --hotkey=i 'Install' {\n    linux    /install.amd/vmlinuz vga=788 --- quiet\n"
        "    initrd   /install.amd/initrd.gz\n}\n"
        "submenu --hotkey=a 'Advanced options ...' {\n menuentry '... Rescue mode' {\n"
        "  linux /install.amd/vmlinuz rescue/enable=true --- quiet\n  initrd /install.amd/initrd.gz\n }\n}\n",
    )
    write(tree / "boot/grub/x86_64-efi/grub.cfg", "insmod part_gpt\nsource /boot/grub/grub.cfg\n")
    efi_image(tree / "boot/grub/efi.img", folder, _EARLY, {})
    iso = folder / "debian.iso"
    master(tree, iso, "Debian 12.7.0 amd64 n", *extra)
    return Vendor(iso, tree)


def fedora(folder: Path) -> Vendor:
    """Test-the-media as default, paths relative to isolinux, GRUB's menu inside the EFI boot image, too."""
    tree = folder / "fedora"
    _common(tree, "images/pxeboot/vmlinuz", ["images/pxeboot/initrd.img"])
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(tree / "images/pxeboot" / name, tree / "isolinux" / name)
    write(tree / ".treeinfo", "[general]\nfamily = Rocky Linux\n")
    label = "Rocky-9-4-x86_64-dvd"
    stage2 = f"inst.stage2=hd:LABEL={label}"
    write(
        tree / "isolinux/isolinux.cfg",
        f"default vesamenu.c32\ntimeout 600\nlabel linux\n  menu label ^Install Rocky Linux 9.4\n  kernel vmlinuz\n"
        f"  append initrd=initrd.img {stage2} quiet\n\nlabel check\n"
        f"  menu label Test this ^media & install Rocky Linux 9.4\n  menu default\n  kernel vmlinuz\n"
        f"  append initrd=initrd.img {stage2} rd.live.check quiet\n",
    )
    menu = (
        f"set default=\"1\"\nset timeout=60\nsearch --no-floppy --set=root -l '{label}'\n"
        f"menuentry 'Install Rocky Linux 9.4' --class fedora --class gnu-linux {{\n"
        f"\tlinux /images/pxeboot/vmlinuz {stage2} quiet\n\tinitrd /images/pxeboot/initrd.img\n}}\n"
        f"menuentry 'Test this media & install Rocky Linux 9.4' --class fedora {{\n"
        f"\tlinux /images/pxeboot/vmlinuz {stage2} rd.live.check quiet\n\tinitrd /images/pxeboot/initrd.img\n}}\n"
    )
    write(tree / "EFI/BOOT/grub.cfg", menu)
    early = "configfile $cmdpath/grub.cfg\n"
    efi_image(tree / "boot/grub/efi.img", folder, early, {"grub.cfg": menu})
    iso = folder / "fedora.iso"
    master(tree, iso, label)
    return Vendor(iso, tree)


def ubuntu(folder: Path) -> Vendor:
    """GRUB for both firmwares; a GPT with the EFI partition behind the volume; a second tree for the first partition."""
    tree = folder / "ubuntu"
    for path in ("casper/vmlinuz", "casper/initrd"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(KERNEL, tree / "casper/vmlinuz")
    (tree / "casper/initrd").write_bytes(initrd())
    write(tree / ".disk/info", 'Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release amd64 (20240827)\n')
    write(
        tree / "boot/grub/grub.cfg",
        "set timeout=30\nloadfont unicode\nset menu_color_normal=white/black\n"
        'menuentry "Try or Install Ubuntu Server" {\n\tset gfxpayload=keep\n'
        "\tlinux\t/casper/vmlinuz  ---\n\tinitrd\t/casper/initrd\n}\ngrub_platform\n"
        'if [ "$grub_platform" = "efi" ]; then\nmenuentry \'Boot from next volume\' {\n\texit 1\n}\nelse\n'
        "menuentry 'Test memory' {\n\tlinux16 /boot/memtest86+x64.bin\n}\nfi\n",
    )
    efi_image(folder / "esp.img", folder, _EARLY, {})
    core = tree / "boot/grub/i386-pc/eltorito.img"
    core.parent.mkdir(parents=True)
    modules = "biosdisk iso9660 part_gpt part_msdos normal configfile search search_fs_file linux serial terminal test"
    run("grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub", "-o", core, *modules.split())
    iso = folder / "ubuntu.iso"
    run(
        "xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", "Ubuntu-Server 24.04.1 LTS amd64", "-J", "-iso-level", "3",
        "--grub2-mbr", "/usr/lib/grub/i386-pc/boot_hybrid.img", "--protective-msdos-label", "-partition_offset", "16",
        "--mbr-force-bootable", "-append_partition", "2", "28732ac11ff8d211ba4b00a0c93ec93b", folder / "esp.img",
        "-appended_part_as_gpt", "-iso_mbr_part_type", "a2a0d0ebe5b9334487c068b6b72699c7", "-c", "/boot.catalog",
        "-b", "/boot/grub/i386-pc/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
        "--grub2-boot-info", "-eltorito-alt-boot", "-e", "--interval:appended_partition_2:::", "-no-emul-boot",
        "-o", iso, tree,
    )  # fmt: skip
    return Vendor(iso, tree)


def boot(iso: Path, firmware: str, bus: str, timeout: float = 90) -> str:
    """Boot it in QEMU to its power-off; -> what it said on the serial console."""
    need("qemu-system-x86_64")
    serial = iso.with_name(f"{iso.stem}-{firmware}-{bus}.log")
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-m", "512", "-nodefaults", "-display", "none",
        "-no-reboot", "-serial", f"file:{serial}", "-net", "none", "-device", "VGA",
    ]  # fmt: skip
    if firmware == "uefi":
        code = ovmf()
        command += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
        if "CODE" in code.name:
            variables = iso.with_name(f"{serial.stem}.vars")
            shutil.copy(code.with_name(code.name.replace("CODE", "VARS")), variables)
            command += ["-drive", f"if=pflash,format=raw,file={variables}"]
    command += ["-drive", f"if=none,id=it,format=raw,readonly=on,file={iso}"]
    command += ["-device", "ide-cd,drive=it,bootindex=0" if bus == "cd" else "virtio-blk-pci,drive=it,bootindex=0"]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = machine.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        machine.kill()
        machine.communicate()
        pytest.fail(f"nothing after {timeout} s: {serial.read_text(errors='replace')[-1500:]}")
    assert machine.returncode == 0, errors
    return serial.read_text(errors="replace")
