"""How each installer is pointed to its answer file."""

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
_LIVE = {"agama": "root=live:, as Agama's", "ubiquity": "a desktop in /casper, for ubiquity"}
_INSTALLERS = {
    "anaconda": ", such as netinst, boot or DVD",
    "agama": " with YaST, such as those of Leap 15 and SLE 15",
    "ubiquity": " with subiquity: Ubuntu Server, or Ubuntu Desktop 23.04 or newer",
    "debian": ", such as netinst or DVD",
}
_DEBIAN = ("auto=true", "priority=critical", "DEBIAN_FRONTEND=text")


@dataclass(frozen=True, slots=True)
class Method:
    """Additions to the medium besides the boot configurations."""

    arguments: tuple[str, ...]  # of the kernel
    initrd: Mapping[str, bytes] = field(default_factory=dict)  # files of a second initrd
    files: Mapping[str, bytes] = field(default_factory=dict)  # files in our folder on the medium
    divided: bool = False  # arguments after '---' are for the installed system


def require(media: Media, kind: Answers, firmware: str) -> None:
    """Raise Refused when this medium can't install unattended with such answers and this firmware."""
    _readable(media, kind)
    if firmware not in media.unattended:
        boots = media.bios if firmware == "bios" else media.uefi
        why = "has no boot configuration for it that can be rewritten" if boots else "does not boot with it"
        raise Refused(
            f"this ISO can't be made to install unattended with firmware {firmware}: it {why}",
            hint=f"set machine.firmware to {' or '.join(sorted(media.unattended))}",
        )


def _readable(media: Media, kind: Answers) -> None:
    if media.live:
        raise Refused(
            f"this is a live medium ({_LIVE.get(media.family) or _live_word(media)}): its installer does not read {kind} by itself",
            hint=f"give the vendor's installer ISO{_INSTALLERS.get(media.family, '')}",
        )
    if media.family not in _FAMILIES[kind]:
        reads = _READS.get(media.family, "")
        raise Refused(
            f"the installer on this ISO ({media.family}) does not read {kind} files",
            hint=f"it reads {reads}" if reads else f"{kind} needs one of: {', '.join(_FAMILIES[kind])}",
        )


def _live_word(media: Media) -> str:
    """The kernel argument by which it is known."""
    return next((word for word in media.entry.arguments.split() if word.startswith(("root=live:", "boot="))), "live")


def method_of(media: Media, kind: Answers, answer: bytes, console: str) -> Method:
    """The method for this medium; raises Refused when its installer doesn't read such answers."""
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
    """Files for kickseed: it does not know %end, and one installer starts it only next to a preseed.cfg."""
    lines = [line.replace(b" --erroronfail", b"") for line in answer.split(b"\n") if line.strip() != b"%end"]
    preseed = ["# what a kickstart can't say", "d-i cdrom-detect/eject boolean false"]
    if b"debian-installer/add-kernel-opts" not in answer:
        preseed.append(f"d-i debian-installer/add-kernel-opts string console={console}")
    return {"ks.cfg": b"\n".join(lines), "preseed.cfg": ("\n".join(preseed) + "\n").encode()}


def _escaped(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"\\x{ord(found[0]):02x}", label)
