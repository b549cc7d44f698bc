"""Makes a vendor's ISO install unattended: adds an answer file, and one boot entry that starts at once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from imageflow.errors import BadInput, NoSpace, Refused
from imageflow.host.control import Control
from imageflow.iso import Answers, bootconfig, copying, cpio, gpt
from imageflow.iso.graft import FOLDER, Graft, Place
from imageflow.iso.media import Media, examine
from imageflow.iso.method import method_of
from imageflow.iso.volume import SECTOR, Tree, VolumeReader, trees

_CONSOLE = "ttyS0,115200"
_ROUND = 1 << 20  # a disk image has whole MiB, as some firmware requires


def remaster(
    source: Path,
    to: Path,
    kind: Answers,
    answer: bytes,
    *,
    arguments: str = "",
    control: Control,
    progress: Callable[[float], None] = lambda _: None,
    console: str = _CONSOLE,
) -> None:
    """Write `to`: the ISO `source` with this answer file (as `answers.compose` made it), booting into it at once.

    `arguments` are more kernel arguments. The same input gives the same bytes. Everything on the vendor's ISO
    except its boot configurations stays unchanged in place. `progress` gets 0 … 1. On failure, nothing is left.
    Raises Refused (what `media.inspect` refuses; answers that this installer does not read), NoSpace,
    BadInput (arguments), and what `control` raises.
    """
    if re.search(r"[^\x20-\x7e]", arguments):
        raise BadInput("kernel arguments must be one line of plain characters")
    partial = to.with_name(to.name + ".partial")
    try:
        with source.open("rb") as vendor, partial.open("wb") as out:
            size = os.fstat(vendor.fileno()).st_size
            image = VolumeReader(vendor, size)
            media = examine(image)
            graft, end = _changes(image, media, kind, answer, arguments, console)
            _room(to, source, end)
            copying.copy(vendor.fileno(), out.fileno(), size, control, lambda done: progress(done / end))
            os.ftruncate(out.fileno(), end)
            for at, data in graft.patches.items():
                _write(out.fileno(), data, at)
            _write(out.fileno(), bytes(graft.tail), graft.start * SECTOR)
            _tables(out.fileno(), image, media, end)
            control.check()
        partial.rename(to)
        progress(1.0)
    except OSError as error:
        raise _told(error, source, to) from error
    finally:
        partial.unlink(missing_ok=True)


def _changes(
    image: VolumeReader, media: Media, kind: Answers, answer: bytes, arguments: str, console: str
) -> tuple[Graft, int]:
    """The changes, and the new image's size in bytes."""
    method = method_of(media, kind, answer, console)
    volumes, _ = trees(image)
    volumes += _second_trees(image)
    graft = Graft(image)
    files: dict[str, bytes] = dict(method.files)
    landmark_name = hashlib.sha256(answer + arguments.encode()).hexdigest()[:16]
    files[landmark_name] = b"imageflow\n"
    landmark = f"/{FOLDER}/{landmark_name}"
    initrds: list[str] = []
    if method.initrd:
        files["answers.gz"] = cpio.initrd(method.initrd)
        initrds.append(f"/{FOLDER}/answers.gz")
    ours = [*method.arguments, *arguments.split()]
    replaced: dict[str, bytes] = {}
    for loader, paths in (("isolinux", media.isolinux), ("grub", media.grub or media.grub_in_image)):
        if not paths:
            continue
        own = [entry for entry in media.entries if entry.loader == loader]
        entry = bootconfig.choose(own)
        if entry is None or entry.unwanted:
            entry = bootconfig.borrowed(media.entry, loader)
        entry = bootconfig.unattended(entry, initrds, ours, console, method.divided)
        if loader == "isolinux":
            replaced |= dict.fromkeys(media.isolinux, bootconfig.as_isolinux(entry, console))
        else:
            files["grub.cfg"] = bootconfig.as_grub(entry, console, landmark)
            replaced |= dict.fromkeys(media.grub, files["grub.cfg"])
    _inside(graft, media, landmark)
    graft.change(volumes, _put(graft, replaced), _put(graft, files))
    end = graft.sectors * SECTOR
    if media.hybrid:
        end += 33 * 512
        end += -end % _ROUND
    return graft, end


def _inside(graft: Graft, media: Media, landmark: str) -> None:
    """Replace GRUB's configuration inside the EFI boot image by one of the same length that loads ours."""
    for file in media.grub_in_image:
        text = f"{bootconfig.search(landmark)}\nconfigfile ($root)/{FOLDER}/grub.cfg\n".encode()
        if len(text) > file.size:
            raise Refused(f"the {file.path} in the ISO's EFI boot image has no room for ours")
        text = text.ljust(file.size, b"\n")
        for at, size in file.pieces:
            graft.patch(at, text[:size])
            text = text[size:]


def _put(graft: Graft, files: Mapping[str, bytes]) -> dict[str, Place]:
    same: dict[bytes, Place] = {}
    for data in files.values():
        if data not in same:
            same[data] = graft.put(data)
    return {name: same[data] for name, data in files.items()}


def _second_trees(image: VolumeReader) -> list[Tree]:
    """Trees of the same files that start at the first partition, if that can grow with the ISO."""
    table = gpt.read(image)
    volume = trees(image)[0][0].blocks * SECTOR
    found: list[Tree] = []
    for start in {entry.first * gpt.BLOCK for entry in gpt.grown(table, volume)} - {0}:
        if start % SECTOR == 0 and image.read(start + 16 * SECTOR, 6)[1:] == b"CD001":
            found += trees(image, start)[0]
    return found


def _tables(out: int, image: VolumeReader, media: Media, end: int) -> None:
    if not media.hybrid:
        return
    table = gpt.read(image)
    volume = trees(image)[0][0].blocks * SECTOR
    for at, data in gpt.patches(image, table, gpt.grown(table, volume), end):
        _write(out, data, at)


def _write(out: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(out, view, at)
        view, at = view[done:], at + done


def _room(to: Path, source: Path, end: int) -> None:
    needed = min(end, source.stat().st_blocks * 512 + (1 << 20))  # holes stay holes
    free = shutil.disk_usage(to.parent).free
    if needed > free:
        raise NoSpace(
            f"{to.parent} has {free >> 20} MiB free, the remastered ISO needs {needed >> 20}",
            hint="make room, or move the state directory",
        )


def _told(error: OSError, source: Path, to: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(
            f"no space left in {to.parent} for the remastered ISO", hint="make room, or move the state directory"
        )
    return Refused(f"{source} can't be remastered to {to}: {error.strerror}")
