"""Inspects an installer's ISO: which installer it has, how it boots, and which of it can run unattended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imageflow.errors import Refused
from imageflow.iso import bootconfig, gpt
from imageflow.iso.bootconfig import BootEntry
from imageflow.iso.fat import Fat, FatFile
from imageflow.iso.identity import Identity, identify
from imageflow.iso.volume import BIOS, EFI, SECTOR, Tree, VolumeReader, boot_images, trees

_BULK = frozenset({"pool", "dists", "packages", "repodata", "baseos", "appstream", "firmware", "suse", "doc", "noarch"})
_ISOLINUX = ("isolinux.cfg", "syslinux.cfg", "extlinux.conf")
_DEPTH = 4  # depth of folders in which boot configurations are searched


@dataclass(frozen=True, slots=True)
class Media:
    """An installer ISO."""

    label: str
    size: int  # bytes of the file
    identity: Identity  # which system and installer it is
    entry: BootEntry  # the vendor's entry for installing
    entries: tuple[BootEntry, ...]
    isolinux: tuple[str, ...]  # paths of boot configurations
    grub: tuple[str, ...]  # paths of menus on the medium
    grub_in_image: tuple[FatFile, ...]  # menus inside the EFI boot image
    bios: bool  # boots from El Torito with a BIOS
    uefi: bool
    hybrid: bool  # boots as a disk, too
    gpt: bool
    unattended: frozenset[str]  # bios, uefi: firmware with which it can be made to install unattended

    @property
    def family(self) -> str:
        """Of its installer: debian, anaconda, subiquity, autoyast; agama, ubiquity: live media; or unknown."""
        return self.identity.family

    @property
    def live(self) -> bool:
        """Whether it starts a live system, from which a person installs."""
        return self.family in ("agama", "ubiquity") or (self.family != "subiquity" and self.entry.live)

    @property
    def kernel(self) -> str:
        """Path of the kernel on the medium."""
        return self.entry.kernel

    @property
    def initrd(self) -> str:
        """Path of its initrd."""
        return self.entry.initrds[0]


def inspect(path: Path) -> Media:
    """Inspect an ISO, reading only its directories and boot configurations.

    Raises Refused: not an ISO, truncated, damaged, no boot record, no boot configuration to rewrite.
    """
    try:
        with path.open("rb") as file:
            return examine(VolumeReader(file, path.stat().st_size))
    except Refused as error:
        raise Refused(f"{path}: {error.message}", hint=error.hint) from None
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror}") from None


def examine(source: VolumeReader) -> Media:
    """`inspect` of an open image."""
    if source.size < 17 * SECTOR:
        raise Refused(
            f"this is not an ISO 9660 image: it has only {source.size} bytes", hint="give the installer's .iso file"
        )
    volumes, catalogue = trees(source)
    volume = volumes[0]
    if volume.blocks * SECTOR > source.size:
        raise Refused(
            f"the ISO is truncated: its volume has {volume.blocks * SECTOR} bytes, the file {source.size}",
            hint="download it again, and compare its checksum",
        )
    if any(_is_udf(source, number) for number in range(16, 64)):
        raise Refused(
            "the ISO also has a UDF file system, which Linux would read and which is not changed",
            hint="UDF can't be remastered; use a vendor's ISO without UDF",
        )
    images = boot_images(source, catalogue) if catalogue is not None else []
    if not images:
        raise Refused("the ISO has no boot record (El Torito)", hint="give the ISO of an installer, not of packages")
    tree = readable(volumes)
    isolinux, grub, entries = _configurations(tree)
    inside: list[FatFile] = []
    for image in images:
        if image.platform == EFI:
            for file, found in _in_image(source, image.lba * SECTOR):
                inside.append(file)
                entries += found
    entries = [entry for entry in entries if all(tree.find(name) for name in (entry.kernel, *entry.initrds))]
    chosen = bootconfig.choose(entries)
    if chosen is None or chosen.unwanted:
        raise Refused(
            "the ISO has no boot configuration that could be made to install unattended",
            hint="isolinux and GRUB with an entry that boots a Linux kernel with an initrd are known",
        )
    bios, uefi = (any(image.platform == platform for image in images) for platform in (BIOS, EFI))
    able = {"bios"} if bios and (isolinux or grub) else set()
    if uefi and (grub or inside):
        able.add("uefi")
    table = gpt.read(source)
    return Media(
        label=volume.label,
        size=source.size,
        identity=identify(tree, volume.label, entries, chosen),
        entry=chosen,
        entries=tuple(entries),
        isolinux=tuple(isolinux),
        grub=tuple(grub),
        grub_in_image=tuple(inside),
        bios=bios,
        uefi=uefi,
        hybrid=table.hybrid,
        gpt=table.array is not None,
        unattended=frozenset(able),
    )


def readable(volumes: list[Tree]) -> Tree:
    """The tree that Linux reads: Rock Ridge before Joliet before plain ISO 9660."""
    joliet = next((tree for tree in volumes if tree.joliet), None)
    return joliet if joliet is not None and not volumes[0].rock_ridge else volumes[0]


def _configurations(tree: Tree) -> tuple[list[str], list[str], list[BootEntry]]:
    def read(path: str) -> str | None:
        entry = tree.find(path)
        return None if entry is None or entry.folder else _text(tree.content(entry))

    isolinux: list[str] = []
    grub: list[str] = []
    entries: list[BootEntry] = []
    for path, entry in tree.walk(_DEPTH, _BULK):
        name = entry.name.lower()
        if name in _ISOLINUX:
            isolinux.append(path)
            entries += bootconfig.isolinux_entries(path, _text(tree.content(entry)), read)
        elif name == "grub.cfg":
            found = bootconfig.grub_entries(_text(tree.content(entry)))
            if found:
                grub.append(path)
                entries += found
    return isolinux, grub, entries


def _in_image(source: VolumeReader, at: int) -> list[tuple[FatFile, list[BootEntry]]]:
    try:
        files = [file for file in Fat(source, at).files() if file.path.endswith("/GRUB.CFG") and file.size < 1 << 20]
    except ValueError:
        return []
    read = [(file, bootconfig.grub_entries(_text(file.read(source)))) for file in files]
    return [(file, found) for file, found in read if found]


def _is_udf(source: VolumeReader, number: int) -> bool:
    at = number * SECTOR
    return at + 6 <= source.size and source.read(at, 6)[1:] in (b"NSR02", b"NSR03")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
