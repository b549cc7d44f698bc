"""A vendor's boot entry, made one that installs unattended: none of its own answers stay beside ours."""

from __future__ import annotations

import pytest

from imageflow.iso.bootconfig import BootEntry, unattended

OURS = ("inst.ks=hd:LABEL=X:/imageflow/ks.cfg", "inst.text")


def _arguments(
    words: str, ours: tuple[str, ...] = OURS, loader: str = "isolinux", *, divided: bool = False
) -> list[str]:
    entry = BootEntry("Install", "/k", ("/i",), words, True, loader)
    return unattended(entry, [], ours, "ttyS0", divided).arguments.split()


@pytest.mark.parametrize(
    "answers",
    [
        "inst.ks=hd:LABEL=V:/ks.cfg",
        "ks=cdrom:/ks.cfg",
        "inst.ks",
        "ksdevice=eth0",
        "inst.ks.sendmac",
        "preseed/file=/cdrom/preseed.cfg",
        "file=/cdrom/preseed/ubuntu-server.seed",
        "auto=true",
        "auto",
        "url=http://h/p.cfg",
        "preseed/url=http://h/p.cfg",
        "preseed/url/checksum=abc",
        "preseed-md5=abc",
        "preseed/late_command=true",
        "auto-install/enable=true",
        "autoinstall",
        "ds=nocloud;s=/cdrom/nocloud/",
        '"ds=nocloud;s=/cdrom/nocloud/"',
        "ds=nocloud\\;s=/cdrom/",
        "cloud-config-url=http://h/u",
        "subiquity.autoinstallpath=x.yaml",
        "autoyast=device://sr0/a.xml",
        "AutoYaST=http://h/a.xml",
        "inst.auto=http://h/a.json",
        "info=cd:/info.txt",
    ],
)
@pytest.mark.parametrize("loader", ["isolinux", "grub"])
def test_the_vendors_answers_go(answers: str, loader: str) -> None:
    assert _arguments(f"net.ifnames=0 {answers} ro", loader=loader) == ["net.ifnames=0", "ro", *OURS, "console=ttyS0"]
    assert answers not in _arguments(f"net.ifnames=0 --- {answers}", loader=loader)


@pytest.mark.parametrize(
    "word",
    [
        "inst.stage2=hd:LABEL=V",
        "inst.repo=cdrom",
        "install=cd:/",
        "locale=C",
        "fb=false",
        "autofs=1",
        "dsx=1",
        "ip=dhcp",
        "profile=a",
        "netcfg/disable_autoconfig=true",
        "rd.udev.event_timeout=9",
    ],
)
def test_the_rest_stays(word: str) -> None:
    assert _arguments(f"{word} ro") == [word, "ro", *OURS, "console=ttyS0"]


def test_ours_are_there_once() -> None:
    ours = ("autoinstall", "ds=nocloud;s=/cdrom/imageflow/")
    assert _arguments("autoinstall ds=nocloud;s=/cdrom/ ---", ours, divided=True) == [*ours, "---", "console=ttyS0"]
