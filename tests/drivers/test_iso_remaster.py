"""Remastered ISOs: the same tree with one other boot entry, read by other programs than ours."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
import subprocess
import zlib
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest

from imageflow.control import Control
from imageflow.errors import BadInput, Cancelled, NoSpace, Refused
from imageflow.iso import Answers, copying
from imageflow.iso.fat import Fat
from imageflow.iso.media import inspect
from imageflow.iso.method import require
from imageflow.iso.remaster import remaster
from imageflow.iso.volume import Source, trees
from tests.drivers import vendor_iso
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor

PRESEED = b"d-i a/b string c\n"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.debian(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def fedora(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.fedora(tmp_path_factory.mktemp("fedora"))


@pytest.fixture(scope="module")
def ubuntu(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.ubuntu(tmp_path_factory.mktemp("ubuntu"))


@pytest.fixture
def small(tmp_path: Path) -> Vendor:
    """Isolinux only, no disk."""
    need("xorriso")
    return plain(tmp_path)


def plain(folder: Path, *options: str, tree: dict[str, str] | None = None) -> Vendor:
    """A bootable tree without a kernel that runs."""
    top = folder / "tree"
    files = {"install.amd/vmlinuz": "k", "install.amd/initrd.gz": "i", "isolinux/isolinux.bin": "b" * 2048}
    entry = (
        "default i\nlabel i\n kernel /install.amd/vmlinuz\n append initrd=/install.amd/initrd.gz vga=788 --- quiet\n"
    )
    files["isolinux/isolinux.cfg"] = entry
    for name, text in {**files, **(tree or {})}.items():
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


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("bus", ["cd", "disk"])
@pytest.mark.timeout(240)
def test_it_boots_unattended(debian: Vendor, tmp_path: Path, firmware: str, bus: str) -> None:
    said = vendor_iso.boot(made(debian, tmp_path / "it.iso", arguments="theirs=1"), firmware, bus, 200)
    assert "GUEST answers /preseed.cfg: d-i a/b string c" in said
    (line,) = [line for line in said.splitlines() if "GUEST cmdline" in line]
    assert "auto=true priority=critical" in line
    assert "theirs=1 --- console=ttyS0,115200" in line
    assert "vga" not in line and "quiet" not in line


@pytest.mark.timeout(240)
def test_it_boots_where_the_menu_is_inside_the_efi_image(fedora: Vendor, tmp_path: Path) -> None:
    it = made(fedora, tmp_path / "it.iso", Answers.KICKSTART, b"rootpw x\n")
    said = vendor_iso.boot(it, "uefi", "cd", 200)
    label = "Rocky-9-4-x86_64-dvd"
    assert f"inst.stage2=hd:LABEL={label} inst.ks=hd:LABEL={label}:/imageflow/ks.cfg" in said
    assert "rd.live.check" not in said
    assert read(it, "/imageflow/ks.cfg") == b"rootpw x\n"


@pytest.mark.parametrize(("firmware", "bus"), [("bios", "disk"), ("uefi", "cd")])
@pytest.mark.timeout(240)
def test_it_boots_where_the_efi_partition_is_behind_the_volume(
    ubuntu: Vendor, tmp_path: Path, firmware: str, bus: str
) -> None:
    it = made(ubuntu, tmp_path / "it.iso", Answers.AUTOINSTALL, b"#cloud-config\n")
    said = vendor_iso.boot(it, firmware, bus, 200)
    assert " autoinstall ds=nocloud;s=/cdrom/imageflow/ fsck.mode=skip --- console=ttyS0,115200" in said
    assert read(it, "/imageflow/user-data") == b"#cloud-config\n"
    assert read(it, "/imageflow/meta-data")
    assert read(it, "/imageflow/vendor-data") == b""


def test_the_tree_of_the_first_partition_changes_too(tmp_path: Path) -> None:
    vendor_iso.need_iso_tools()
    it = made(vendor_iso.debian(tmp_path, "-partition_offset", "16"), tmp_path / "it.iso")
    assert b"imageflow" in read(it, "/isolinux/isolinux.cfg")
    first, count = struct.unpack_from("<II", it.read_bytes(), 446 + 8)
    assert (first, first + count) == (64, it.stat().st_size // 512)
    (tmp_path / "partition").write_bytes(it.read_bytes()[first * 512 :])
    assert b"imageflow" in read(tmp_path / "partition", "/isolinux/isolinux.cfg")
    assert read(tmp_path / "partition", "/imageflow/answers.gz") == read(it, "/imageflow/answers.gz")
    assert read(tmp_path / "partition", "/a/b/c/d/e/f/g/h/i/j/deep.txt") == b"ten levels\n"


def test_firmware_that_it_can_not_boot_with(small: Vendor, debian: Vendor) -> None:
    require(inspect(debian.iso), Answers.PRESEED, "uefi")
    require(inspect(small.iso), Answers.PRESEED, "bios")
    with pytest.raises(Refused, match="does not boot with it"):
        require(inspect(small.iso), Answers.PRESEED, "uefi")


def test_udf(tmp_path: Path, small: Vendor) -> None:
    data = bytearray(small.iso.read_bytes())
    end = next(at for at in range(16 * 2048, 30 * 2048, 2048) if data[at] == 255)
    data[end + 2048 : end + 2048 + 6] = b"\0NSR02"
    (tmp_path / "udf.iso").write_bytes(data)
    _refused(tmp_path / "udf.iso", "UDF")


@pytest.mark.parametrize("vendor", ["debian", "fedora"])
def test_all_else_is_the_same(vendor: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    theirs: Vendor = request.getfixturevalue(vendor)
    kind = Answers.PRESEED if vendor == "debian" else Answers.KICKSTART
    it = made(theirs, tmp_path / "it.iso", kind)
    before, after = digests(extracted(theirs.iso, tmp_path / "before")), digests(extracted(it, tmp_path / "after"))
    configurations = set(inspect(theirs.iso).isolinux) | set(inspect(theirs.iso).grub)
    changed = {name for name in before if before[name] != after.get(name)}
    # the EFI boot image holds a configuration of GRUB's, in Fedora's way
    assert changed == {name.lstrip("/") for name in configurations} | (
        {"boot/grub/efi.img"} if vendor == "fedora" else set()
    )
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"imageflow"}
    # byte for byte where they were: what differs in the vendor's range is records, descriptors, tables, configurations
    old, new = theirs.iso.read_bytes(), it.read_bytes()[: theirs.iso.stat().st_size]
    other = sum(1 for at in range(0, len(old), 2048) if old[at : at + 2048] != new[at : at + 2048])
    assert other < 120, f"{other} sectors differ"


def test_other_programs_see_a_whole_tree(debian: Vendor, tmp_path: Path) -> None:
    it = made(debian, tmp_path / "it.iso")
    names = {"/imageflow/answers.gz", "/imageflow/grub.cfg", "/a/b/c/d/e/f/g/h/i/j/deep.txt", "/install.amd/vmlinuz"}
    for option in ("-R", "-J"):
        if shutil.which("isoinfo"):
            done = subprocess.run(["isoinfo", option, "-f", "-i", str(it)], capture_output=True, text=True, check=True)
            assert names <= set(done.stdout.split("\n")), option
    for namespace in ("rr_path", "joliet_path"):  # pycdlib refuses a tree whose tables or sizes are wrong
        assert b"initrd=/install.amd/initrd.gz,/imageflow/answers.gz" in read(it, "/isolinux/isolinux.cfg", namespace)
        assert read(it, "/a/b/c/d/e/f/g/h/i/j/deep.txt", namespace) == b"ten levels\n"
    done = subprocess.run(
        ["xorriso", "-indev", str(it), "-report_el_torito", "plain", "-report_system_area", "plain"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "BIOS" in done.stdout and "UEFI" in done.stdout
    assert "FAILURE" not in done.stderr


def test_partition_tables_are_whole(debian: Vendor, tmp_path: Path) -> None:
    it = made(debian, tmp_path / "it.iso")
    data = it.read_bytes()
    assert len(data) % (1 << 20) == 0
    blocks = len(data) // 512
    mine, other, first, last = struct.unpack_from("<QQQQ", data, 512 + 24)
    assert (mine, other) == (1, blocks - 1)
    for at in (512, (blocks - 1) * 512):
        header = bytearray(data[at : at + 92])
        array, count, size, crc = struct.unpack_from("<QIII", header, 72)
        signed = struct.unpack_from("<I", header, 16)[0]
        struct.pack_into("<I", header, 16, 0)
        assert zlib.crc32(header) == signed
        assert zlib.crc32(data[array * 512 : array * 512 + count * size]) == crc
    assert first <= last < blocks - 33
    assert struct.unpack_from("<I", data, 446 + 12)[0] == blocks
    if shutil.which("sgdisk"):
        done = subprocess.run(["sgdisk", "-v", str(it)], capture_output=True, text=True)
        assert "CRC" not in done.stdout + done.stderr, done.stdout


def test_the_same_input_gives_the_same_bytes(debian: Vendor, tmp_path: Path) -> None:
    one, two = made(debian, tmp_path / "1.iso"), made(debian, tmp_path / "2.iso")
    assert one.read_bytes() == two.read_bytes()
    assert made(debian, tmp_path / "3.iso", answer=b"d-i a/b string d\n").read_bytes() != one.read_bytes()


def test_the_efi_image_keeps_its_size(fedora: Vendor, tmp_path: Path) -> None:
    it = made(fedora, tmp_path / "it.iso", Answers.KICKSTART)
    (theirs,) = inspect(fedora.iso).grub_in_image
    with it.open("rb") as file:
        text = theirs.read(Source(file, it.stat().st_size)).decode()
    assert text.startswith("search ") and "configfile ($root)/imageflow/grub.cfg" in text
    assert len(text) == theirs.size


def test_what_is_seen(debian: Vendor, fedora: Vendor) -> None:
    media = inspect(debian.iso)
    assert (media.family, media.label, media.bios, media.uefi, media.hybrid) == (
        "debian",
        "Debian 12.7.0 amd64 n",
        True,
        True,
        True,
    )
    assert media.initrd == "/install.amd/initrd.gz"  # not the graphical one, though it is the default
    assert media.unattended == {"bios", "uefi"}
    assert inspect(fedora.iso).family == "anaconda"


@pytest.mark.parametrize("options", [("-r",), ("-J",), ("-J", "-joliet-long"), ("-U",)], ids=" ".join)
def test_other_kinds_of_names(options: tuple[str, ...], tmp_path: Path) -> None:
    need("xorriso")
    it = made(plain(tmp_path, *options), tmp_path / "it.iso")
    media = inspect(plain(tmp_path, *options).iso)
    assert media.family == "debian" and not media.hybrid and media.unattended == {"bios"}
    if "-r" in options:
        assert read(it, "/imageflow/answers.gz")
    elif "-J" in options:
        assert read(it, "/imageflow/answers.gz", "joliet_path")
    with pytest.raises(Refused, match="remastered by imageflow before"):
        remaster(it, tmp_path / "again.iso", Answers.PRESEED, PRESEED, control=Control())


def test_a_root_directory_of_many_sectors(tmp_path: Path) -> None:
    need("xorriso")
    files = {f"folder-{number:04}-of-many/{number}": f"{number}" for number in range(300)}
    files |= {f"zfile-{number}": "z" for number in range(100)}
    vendor = plain(tmp_path, tree=files)
    it = made(vendor, tmp_path / "it.iso")
    for namespace in ("rr_path", "joliet_path"):
        assert read(it, "/folder-0299-of-many/299", namespace) == b"299"
    after = digests(extracted(it, tmp_path / "after"))
    assert files.keys() <= after.keys()
    assert "imageflow/answers.gz" in after


def test_names_that_pycdlib_would_break(tmp_path: Path) -> None:
    need("xorriso")
    long = {f"pool/{'n' * length}": str(length) for length in range(180, 256, 5)}
    it = made(plain(tmp_path, "-r", tree=long), tmp_path / "it.iso")
    after = digests(extracted(it, tmp_path / "after"))
    assert {name: hashlib.sha256(text.encode()).hexdigest() for name, text in long.items()}.items() <= after.items()


def _refused(path: Path, words: str) -> None:
    with pytest.raises(Refused, match=words):
        inspect(path)
    to = path.with_name("out.iso")
    with pytest.raises(Refused, match=words):
        remaster(path, to, Answers.PRESEED, PRESEED, control=Control())
    assert [p.name for p in path.parent.glob("out.iso*")] == []


def test_truncated(small: Vendor) -> None:
    with small.iso.open("r+b") as file:
        file.truncate(small.iso.stat().st_size // 2)
    _refused(small.iso, "truncated")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"\0" * (1 << 20), os.urandom(1 << 17)], ids=["empty", "tiny", "zeros", "noise"]
)
def test_not_an_iso(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.iso").write_bytes(content)
    _refused(tmp_path / "no.iso", "not an ISO 9660 image")


def test_no_boot_record(tmp_path: Path) -> None:
    need("xorriso")
    vendor_iso.write(tmp_path / "tree/a", "a")
    vendor_iso.run("xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", tmp_path / "v.iso", tmp_path / "tree")
    _refused(tmp_path / "v.iso", "no boot record")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "default x\nlabel x\n kernel memdisk\n append initrd=/nothing\n",
        "label rescue\n kernel /install.amd/vmlinuz\n append initrd=/install.amd/initrd.gz\n",
    ],
    ids=["empty", "kernel is missing", "rescue only"],
)
def test_no_boot_configuration(text: str, tmp_path: Path) -> None:
    need("xorriso")
    _refused(plain(tmp_path, tree={"isolinux/isolinux.cfg": text}).iso, "no boot configuration")


def test_no_such_file(tmp_path: Path) -> None:
    _refused(tmp_path / "no.iso", "can't be read|can't be remastered")


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_refused_or_harmless(seed: int, small: Vendor, tmp_path: Path) -> None:
    """Noise in descriptors and directories gives an error of ours, never another one, and never goes on for ever."""
    import random

    noise = random.Random(seed)
    data = bytearray(small.iso.read_bytes())
    for _ in range(noise.choice((1, 8, 60))):
        data[noise.randrange(16 * 2048, min(len(data), 60 * 2048))] = noise.randrange(256)
    (tmp_path / "bad.iso").write_bytes(data)
    try:
        inspect(tmp_path / "bad.iso")
        remaster(tmp_path / "bad.iso", tmp_path / "out.iso", Answers.PRESEED, PRESEED, control=Control())
    except Refused:
        assert not (tmp_path / "out.iso").exists()


def test_answers_that_the_installer_does_not_read(fedora: Vendor, small: Vendor, tmp_path: Path) -> None:
    for vendor, kind in ((fedora, Answers.PRESEED), (small, Answers.AUTOYAST), (small, Answers.AUTOINSTALL)):
        with pytest.raises(Refused, match="does not read"):
            remaster(vendor.iso, tmp_path / "x.iso", kind, b"", control=Control())


def test_arguments_of_two_lines(small: Vendor, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        remaster(small.iso, tmp_path / "x.iso", Answers.PRESEED, b"", arguments="a\nb", control=Control())


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


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_files_in_fat(bits: str, tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy", "mmd")
    image = tmp_path / "fat"
    sizes = {"12": 2 << 20, "16": 24 << 20, "32": 80 << 20}
    with image.open("wb") as file:
        file.truncate(sizes[bits])
    vendor_iso.run("mkfs.vfat", "-F", bits, "-s", "1", image)
    (tmp_path / "f").write_bytes(os.urandom(70_000))
    vendor_iso.run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    vendor_iso.run("mcopy", "-i", image, tmp_path / "f", "::/EFI/BOOT/grub.cfg")
    with image.open("rb") as file:
        (found,) = Fat(Source(file, sizes[bits]), 0).files()
        assert found.path == "/EFI/BOOT/GRUB.CFG"
        assert found.read(Source(file, sizes[bits])) == (tmp_path / "f").read_bytes()


@pytest.mark.slow
def test_a_file_of_more_than_4_gib(tmp_path: Path) -> None:
    """Sparse here; xorriso writes zeros, so the ISO is made sparse again."""
    need("xorriso", "fallocate")
    tree = tmp_path / "tree"
    vendor_iso.write(tree / "big", "")
    with (tree / "big").open("r+b") as file:
        file.truncate((4 << 30) + 12345)
        file.seek((4 << 30) + 12000)
        file.write(b"the end")
    vendor = plain(tmp_path)
    vendor_iso.run("fallocate", "--dig-holes", vendor.iso)
    it = made(vendor, tmp_path / "it.iso")
    assert it.stat().st_size > 4 << 30
    assert it.stat().st_blocks * 512 < 64 << 20, "holes were filled"
    assert read(it, "/imageflow/answers.gz")
    listed = subprocess.run(["xorriso", "-indev", str(it), "-lsl", "/big"], capture_output=True, text=True, check=True)
    assert f" {(4 << 30) + 12345} " in listed.stdout
    with it.open("rb") as file:
        big = trees(Source(file, it.stat().st_size))[0][0].find("/big")
        assert big is not None and big.size == (4 << 30) + 12345
        lba, size = big.extents[-1]
        file.seek(lba * 2048 + size - 345)
        assert file.read(7) == b"the end"
