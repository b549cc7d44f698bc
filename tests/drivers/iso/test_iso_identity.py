"""What an ISO is: live or an installer, of which system and release, and for which processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.errors import Refused
from imageflow.iso import Answers
from imageflow.iso.media import Media, inspect
from imageflow.iso.method import require
from tests.drivers.iso.remastered_iso import plain
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor

PXE = {"images/pxeboot/vmlinuz": "k", "images/pxeboot/initrd.img": "i"}
LIVE = "root=live:CDLABEL=LIVE rd.live.image quiet"
STAGE2 = "inst.stage2=hd:LABEL=PLAIN quiet"
CASPER = {"casper/vmlinuz": "k", "casper/initrd": "i"}
SUSE = {"boot/x86_64/loader/linux": "k", "boot/x86_64/loader/initrd": "i"}


def _entry(kernel: str, initrd: str, arguments: str, label: str = "start") -> str:
    return f"label {label}\n kernel /{kernel}\n append initrd=/{initrd} {arguments}\n"


def _media(folder: Path, tree: dict[str, str], arguments: str, more: str = "") -> Media:
    need("xorriso")
    kernel, initrd = list(tree)[:2]
    menu = {"isolinux/isolinux.cfg": "default start\n" + _entry(kernel, initrd, arguments) + more}
    return inspect(plain(folder, tree={**tree, **menu}, without=("install.amd",)).iso)


@pytest.mark.parametrize(
    ("tree", "arguments", "kind"),
    [
        ({**PXE, "LiveOS/squashfs.img": "s"}, LIVE, Answers.KICKSTART),
        ({**CASPER, ".disk/info": 'Ubuntu 22.04.3 LTS "Jammy Jellyfish" - Release amd64'}, "quiet", Answers.AUTOINSTALL),
        ({**CASPER, ".disk/info": 'Ubuntu 22.04.3 LTS "Jammy Jellyfish" - Release amd64'}, "quiet", Answers.PRESEED),
        ({**CASPER, ".disk/info": 'Linux Mint 21.3 "Virginia" - Release amd64'}, "boot=casper", Answers.PRESEED),
        ({**SUSE, "LiveOS/squashfs.img": "s"}, "root=live:CDLABEL=agama", Answers.AUTOYAST),
        ({"live/vmlinuz": "k", "live/initrd.img": "i", ".disk/info": "Debian GNU/Linux Live 12.7.0"}, "boot=live", Answers.PRESEED),
    ],
    ids=["fedora", "ubuntu desktop", "ubuntu desktop with a preseed", "mint", "agama", "debian"],
)  # fmt: skip
def test_a_live_medium_is_no_installer(tmp_path: Path, tree: dict[str, str], arguments: str, kind: Answers) -> None:
    with pytest.raises(Refused, match="this is a live medium"):
        require(_media(tmp_path, tree, arguments), kind, "bios")


@pytest.mark.parametrize(
    ("tree", "arguments", "kind"),
    [
        (PXE, STAGE2, Answers.KICKSTART),
        ({**PXE, "LiveOS/squashfs.img": "s"}, f"{STAGE2} {LIVE}", Answers.KICKSTART),
        ({**CASPER, "casper/install-sources.yaml": "s"}, "quiet", Answers.AUTOINSTALL),
        ({**CASPER, "casper/installer.squashfs": "s"}, "boot=casper", Answers.AUTOINSTALL),
        ({**CASPER, ".disk/info": 'Ubuntu-Server 20.04 LTS "Focal Fossa"'}, "boot=casper", Answers.AUTOINSTALL),
        (SUSE, "splash=silent", Answers.AUTOYAST),
        ({**SUSE, ".treeinfo": "[general]\nfamily = openSUSE Leap\nversion = 15.6\n"}, "splash=silent", Answers.AUTOYAST),
    ],
    ids=["anaconda", "anaconda from a live image", "subiquity", "subiquity 20.04", "ubuntu server", "yast", "yast with treeinfo"],
)  # fmt: skip
def test_an_installer_is_none(tmp_path: Path, tree: dict[str, str], arguments: str, kind: Answers) -> None:
    require(_media(tmp_path, tree, arguments), kind, "bios")


def test_the_installer_of_a_live_medium_is_chosen(tmp_path: Path) -> None:
    tree = {"live/vmlinuz": "k", "live/initrd.img": "i", "install/vmlinuz": "k", "install/initrd.gz": "i"}
    more = _entry("install/vmlinuz", "install/initrd.gz", "vga=788 --- quiet", "install")
    media = _media(tmp_path, tree, "boot=live components", more)
    require(media, Answers.PRESEED, "bios")
    assert media.kernel == "/install/vmlinuz"


TREEINFO = (
    "[release]\nname = Fedora\nshort = Fedora\nversion = 40\n[tree]\narch = aarch64\n[general]\nfamily = Fedora\n"
)


@pytest.mark.parametrize(
    ("tree", "arguments", "found"),
    [
        ({**PXE, ".treeinfo": TREEINFO}, STAGE2, ("Fedora", "40", "", "aarch64")),
        ({**PXE, ".discinfo": "1700000000.1\nRocky Linux 9.4\nx86_64\n"}, STAGE2, ("Rocky Linux", "9.4", "", "x86_64")),
        ({**PXE, ".discinfo": "1700000000.1\n7.9\nx86_64\n"}, STAGE2, ("", "7.9", "", "x86_64")),
        ({**SUSE, "media.1/products": "/ openSUSE-Leap 15.6-1\n"}, "", ("openSUSE-Leap", "15.6", "", "x86_64")),
        (
            {**CASPER, ".disk/info": 'Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release amd64 (20240827)'},
            "",
            ("Ubuntu-Server", "24.04.1", "noble", "x86_64"),
        ),
        (
            {"install/vmlinuz": "k", "install/initrd.gz": "i", ".disk/info": 'Debian GNU/Linux 12.7.0 "Bookworm" - Official arm64 NETINST'},
            "",
            ("Debian GNU/Linux", "12.7.0", "bookworm", "aarch64"),
        ),
        ({**PXE, ".treeinfo": "no ini\n"}, STAGE2, ("", "", "", "")),
    ],
    ids=["fedora", "rocky", "centos", "leap", "ubuntu", "debian", "nothing"],
)  # fmt: skip
def test_what_it_says_of_itself(
    tmp_path: Path, tree: dict[str, str], arguments: str, found: tuple[str, str, str, str]
) -> None:
    it = _media(tmp_path, tree, arguments).identity
    assert (it.distribution, it.release, it.codename, it.architecture) == found


def test_a_label_is_better_than_nothing(fedora: Vendor) -> None:
    it = inspect(fedora.iso).identity
    assert (it.distribution, it.release, it.architecture) == ("Rocky Linux", "9.4", "x86_64")
