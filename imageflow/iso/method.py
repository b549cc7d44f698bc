"""How each installer is told where its answers are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imageflow.errors import Refused
from imageflow.iso import Answers
from imageflow.iso.graft import FOLDER
from imageflow.iso.media import Media

_FAMILIES = {
    Answers.PRESEED: ("debian", "unknown"),
    Answers.KICKSTART: ("anaconda", "debian", "unknown"),
    Answers.AUTOINSTALL: ("subiquity",),
    Answers.AUTOYAST: ("autoyast",),
}
_READS = {
    "debian": "a preseed, or a kickstart where its initrd has kickseed",
    "anaconda": "a kickstart",
    "subiquity": "autoinstall",
    "autoyast": "autoyast",
}
_DEBIAN = ("auto=true", "priority=critical", "DEBIAN_FRONTEND=text")


@dataclass(frozen=True, slots=True)
class Method:
    """What goes onto the medium besides the boot configurations."""

    arguments: tuple[str, ...]  # of the kernel
    initrd: Mapping[str, bytes] = field(default_factory=dict)  # files of a second initrd
    files: Mapping[str, bytes] = field(default_factory=dict)  # files in our folder on the medium
    divided: bool = False  # what stands behind '---' is for the installed system


def require(media: Media, kind: Answers, firmware: str) -> None:
    """Raise Refused when this medium can't install unattended from such answers on a machine with this firmware."""
    _readable(media, kind)
    if firmware not in media.unattended:
        boots = media.bios if firmware == "bios" else media.uefi
        why = "has no boot configuration for it that can be rewritten" if boots else "does not boot with it"
        raise Refused(
            f"this ISO can't be made to install unattended with firmware {firmware}: it {why}",
            hint=f"set machine.firmware to {' or '.join(sorted(media.unattended))}",
        )


def _readable(media: Media, kind: Answers) -> None:
    if media.family not in _FAMILIES[kind]:
        reads = _READS.get(media.family, "")
        raise Refused(
            f"the installer on this ISO ({media.family}) does not read {kind} files",
            hint=f"it reads {reads}" if reads else f"{kind} needs one of: {', '.join(_FAMILIES[kind])}",
        )


def method_of(media: Media, kind: Answers, answer: bytes, console: str) -> Method:
    """Raises Refused when the installer on this medium doesn't read such answers."""
    _readable(media, kind)
    if kind is Answers.PRESEED:
        return Method(_DEBIAN, initrd={"preseed.cfg": answer}, divided=True)
    if kind is Answers.KICKSTART and media.family == "anaconda":
        return Method(
            (f"inst.ks=hd:LABEL={_escaped(media.label)}:/{FOLDER}/ks.cfg", "inst.text"), files={"ks.cfg": answer}
        )
    if kind is Answers.KICKSTART:
        return Method((*_DEBIAN, "ks=file:/ks.cfg"), initrd=_kickseed(answer, console), divided=True)
    if kind is Answers.AUTOINSTALL:
        return Method(
            ("autoinstall", f"ds=nocloud;s=/cdrom/{FOLDER}/", "fsck.mode=skip"),
            files={"user-data": answer, "meta-data": b"instance-id: imageflow\n", "vendor-data": b""},
            divided=True,
        )
    return Method(("autoyast=file:/autoinst.xml", "textmode=1"), initrd={"autoinst.xml": answer})


def _kickseed(answer: bytes, console: str) -> dict[str, bytes]:
    """Debian's reading of kickstarts: it knows no %end, and one installer is started only beside a preseed.cfg."""
    lines = [line.replace(b" --erroronfail", b"") for line in answer.split(b"\n") if line.strip() != b"%end"]
    preseed = ["# what a kickstart can't say", "d-i cdrom-detect/eject boolean false"]
    if b"debian-installer/add-kernel-opts" not in answer:
        preseed.append(f"d-i debian-installer/add-kernel-opts string console={console}")
    return {"ks.cfg": b"\n".join(lines), "preseed.cfg": ("\n".join(preseed) + "\n").encode()}


def _escaped(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"\\x{ord(found[0]):02x}", label)
