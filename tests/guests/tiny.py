"""The tiny guest: Debian's cloud kernel, busybox and dropbear on a disk that boots with BIOS and UEFI."""

from __future__ import annotations

import functools
import shutil
import struct
from pathlib import Path

from tests.guests import cache, debs
from tests.guests.debs import as_root, run
from tests.servers.services import missing, require

FAULTS = (
    "panic",  # the kernel panics
    "reboot",  # reboots for ever
    "hang",  # says nothing more
    "emergency",  # waits for the password of root
)
MIB = 1 << 20
BOOT = (1, 40)  # MiB: where the boot partition begins, and its size
ROOT = (41, 384)
_FILES = Path(__file__).parent / "tiny_files"
_PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "libc6",
    "libcrypt1",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "syslinux",
    "zlib1g",
)
_EARLY = ("virtio_pci", "virtio_rng", "virtio_blk", "virtio_scsi")
MODULES = (*_EARLY, "virtio_net", "button", "evdev")
MODULES += ("ata_piix", "ahci", "sd_mod", "sr_mod", "isofs", "vfat", "nls_iso8859-1", "nls_utf8", "nls_cp437")
MODULES += ("nls_ascii",)  # the kernel's defaults for vfat
_LIBRARIES = ("ld-linux-x86-64.so.2", "libc.so.6", "libcrypt.so.1", "libgmp.so.10")
_LIBRARIES += ("libtomcrypt.so.1", "libtommath.so.1", "libz.so.1")
_GRUB = "part_msdos fat search search_label normal configfile linux serial terminal all_video"
# emulated timers are late on a busy host: without no_timer_check the kernel panics then
COMMAND_LINE = "console=tty0 console=ttyS0,115200 loglevel=6 random.trust_cpu=on panic=-1 no_timer_check"


def disk(fault: str = "") -> Path:
    """A bootable qcow2, of 425 MiB; never write to it."""
    assert fault in ("", *FAULTS)
    return parts() / f"disk{'-' if fault else ''}{fault}.qcow2"


@functools.cache
def parts() -> Path:
    """The folder with everything: kernel, initrd, boot.img, root.img, tools/, modules/, disk*.qcow2."""
    programs = ("qemu-img", "mke2fs", "mformat", "mcopy", "cpio", "depmod", "grub-mkstandalone", "unshare", "truncate")
    require_programs(*programs)
    names = (debs.kernel(), *_PACKAGES)
    code = [_FILES, Path(__file__), Path(debs.__file__)]
    return cache.made("tiny", cache.digest(code, (f"{n} {v}" for n, v in debs.versions(names).items())), _make)


def require_programs(*programs: str) -> None:
    """Skip the test when a program is missing."""
    require(
        "programs of packages in bindep.txt", [p for p in missing(*programs) if not Path(f"/usr/sbin/{p}").exists()]
    )


def _make(to: Path) -> None:
    work = to / "work"
    work.mkdir()
    debs.unpack([debs.kernel()], work / "kernel")
    debs.unpack(_PACKAGES, work / "tools")
    shutil.copy(next((work / "kernel/boot").glob("vmlinuz-*")), to / "kernel")
    _gather_modules(work / "kernel", to / "modules")
    _initrd(work, to)
    _boot_partition(work, to)
    (to / "tools").mkdir()
    for fault in ("", *FAULTS):
        _root(work / f"root{fault}", work, to, fault)
        image = to / f"root{fault}.img"
        _file_system(work / f"root{fault}", image)
        _disk(work, to, image, to / f"disk{'-' if fault else ''}{fault}.qcow2")
        if fault:
            image.unlink()
    shutil.copytree(work / "root", to / "root", symlinks=True)
    shutil.rmtree(work)


def _gather_modules(kernel: Path, to: Path) -> None:
    """What MODULES need, as a tree lib/modules/VERSION with its indexes."""
    (tree,) = (kernel / "lib/modules").iterdir()
    run("depmod", "-b", kernel, tree.name)
    needs: dict[str, list[str]] = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).stem.replace("-", "_")] = [path, *rest.split()]
    new = to / "lib/modules" / tree.name
    for name in MODULES:
        for path in needs.get(name.replace("-", "_"), []):  # modules that are built in have no file
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / path, new / path)
    for index in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy(tree / index, new / index)
    run("depmod", "-b", to, tree.name)


def archive(tree: Path, to: Path) -> None:
    """Pack a folder as an initrd."""
    names = "\n".join(sorted(str(p.relative_to(tree)) for p in tree.rglob("*")))
    pack = f'cpio -o -H newc --quiet -R 0:0 | gzip -1 > "{to}"'
    run("sh", "-c", pack, cwd=tree, stdin=names.encode())


def _initrd(work: Path, to: Path) -> None:
    tree = work / "initrd"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(work / "tools/bin/busybox", tree / "bin/busybox")
    (tree / "bin/modprobe").symlink_to("busybox")
    shutil.copy(_FILES / "init", tree / "init")
    (tree / "init").chmod(0o755)
    shutil.copytree(to / "modules", tree, dirs_exist_ok=True)
    archive(tree, to / "initrd.gz")


def _root(tree: Path, work: Path, to: Path, fault: str) -> None:
    """The root file system's tree."""
    folders = "bin dev etc/ssh etc/init.d home mnt proc root/.ssh run srv sys tmp usr/share usr/local/bin var/lib var/log var/tmp var/cache"
    for folder in folders.split():
        (tree / folder).mkdir(parents=True)
    (tree / "sbin").symlink_to("bin")
    for name in ("bin", "sbin"):
        (tree / "usr" / name).symlink_to("../bin")
    shutil.copy(work / "tools/bin/busybox", tree / "bin/busybox")
    for applet in run(work / "tools/bin/busybox", "--list").split():
        if applet not in ("busybox", "dpkg", "dpkg-deb", "rpm"):
            (tree / "bin" / applet).symlink_to("busybox")
    for name in ("adduser", "addgroup", "chpasswd", "install"):
        shutil.copy(_FILES / name, tree / "bin" / name)
        (tree / "bin" / name).chmod(0o755)
    _dropbear(tree, work)
    shutil.copytree(to / "modules", tree, dirs_exist_ok=True)
    for name in ("rc", "rc.shutdown", "udhcpc.script", "inittab"):
        shutil.copy(_FILES / name, tree / "etc" / name)
        (tree / "etc" / name).chmod(0o755)
    texts = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "shadow": "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
        "group": "root:x:0:\nadm:x:4:\nsudo:x:27:\nwww-data:x:33:\nstaff:x:50:\nnogroup:x:65534:\n",
        "shells": "/bin/sh\n",
        "hostname": "tiny\n",
        "hosts": "127.0.0.1 localhost\n",
        "machine-id": "",
        "resolv.conf": "",
        "os-release": 'ID=tiny\nNAME="Tiny"\nPRETTY_NAME="Tiny guest of imageflow"\nVERSION_ID=1\n',
        "fstab": "LABEL=tiny-root / ext4 noatime 0 1\n",
    }
    for name, text in texts.items():
        (tree / "etc" / name).write_text(text)
    if fault:
        (tree / "etc/tiny-fault").write_text(fault + "\n")
    (tree / "etc/shadow").chmod(0o600)
    for folder, mode in {"root": 0o700, "root/.ssh": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}.items():
        (tree / folder).chmod(mode)


def _dropbear(tree: Path, work: Path) -> None:
    tools = work / "tools"
    for name in ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/lib/dropbear/dropbearconvert"):
        shutil.copy(tools / name, tree / "bin" / Path(name).name)
    (tree / "lib64").mkdir()
    (tree / "lib/x86_64-linux-gnu").mkdir(parents=True)
    for name in _LIBRARIES:
        found = next(p for p in tools.rglob(name) if p.exists())
        shutil.copy(found, tree / ("lib64" if name.startswith("ld-") else "lib/x86_64-linux-gnu") / name)


def _boot_partition(work: Path, to: Path) -> None:
    """A FAT file system with syslinux, GRUB for UEFI, kernel and initrd."""
    image = to / "boot.img"
    run("truncate", "-s", f"{BOOT[1]}M", image)
    run("mformat", "-i", image, "-v", "BOOT", "-H", str(BOOT[0] * 2048), "-F", "::")
    (work / "syslinux.cfg").write_text(
        f"SERIAL 0 115200\nDEFAULT tiny\nPROMPT 0\nLABEL tiny\n KERNEL /kernel\n INITRD /initrd.gz\n APPEND {COMMAND_LINE}\n"
    )
    (work / "grub.cfg").write_text(
        "serial --unit=0 --speed=115200\nterminal_output console serial\nsearch --no-floppy --label BOOT --set=root\n"
        f"linux /kernel {COMMAND_LINE}\ninitrd /initrd.gz\nboot\n"
    )
    run(
        "grub-mkstandalone",
        *("-O", "x86_64-efi", "-o", work / "bootx64.efi", f"--modules={_GRUB}", f"--install-modules={_GRUB}"),
        *("--locales=", "--fonts=", "--themes=", f"boot/grub/grub.cfg={work / 'grub.cfg'}"),
    )
    run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", image, work / "bootx64.efi", "::/EFI/BOOT/BOOTX64.EFI")
    run("mcopy", "-i", image, to / "kernel", to / "initrd.gz", work / "syslinux.cfg", "::/")
    run(work / "tools/usr/bin/syslinux", "--install", image)


def _file_system(tree: Path, image: Path) -> None:
    run("truncate", "-s", f"{ROOT[1]}M", image)
    options = ("-q", "-F", "-t", "ext4", "-L", "tiny-root", "-b", "4096", "-J", "size=4", "-m", "0", "-N", "8192")
    run(*as_root("mke2fs", *options, "-E", "lazy_itable_init=1,root_owner=0:0", "-d", tree, image))


def mbr(partitions: list[tuple[int, int, int, bool]], code: bytes) -> bytes:
    """A boot sector for (type, first MiB, MiB, active) partitions."""
    table = b"".join(
        struct.pack("<B3sB3sII", 0x80 if active else 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", at * 2048, size * 2048)
        for kind, at, size, active in partitions
    )
    return code[:440].ljust(440, b"\0") + b"TINY\0\0" + table.ljust(64, b"\0") + b"\x55\xaa"


def _disk(work: Path, to: Path, root: Path, qcow2: Path) -> None:
    raw = work / "disk.raw"
    raw.unlink(missing_ok=True)
    run("truncate", "-s", f"{ROOT[0] + ROOT[1]}M", raw)
    code = next((work / "tools").rglob("mbr.bin"), Path("/usr/lib/syslinux/mbr/mbr.bin")).read_bytes()
    with raw.open("r+b") as out:
        out.write(mbr([(0xEF, *BOOT, True), (0x83, *ROOT, False)], code))
    for image, (at, _) in ((to / "boot.img", BOOT), (root, ROOT)):
        run("dd", f"if={image}", f"of={raw}", "bs=1M", f"seek={at}", "conv=notrunc,sparse")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    qcow2.chmod(0o444)
    if root.name == "root.img":
        shutil.copy(raw, to / "disk.raw")
