"""An ISO and its answers fit each other, or are told that they don't."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.errors import Refused
from imageflow.iso import Additions, Answers, fit
from imageflow.iso.answers import check, compose, grammar
from imageflow.iso.media import Media, inspect
from tests.drivers.iso.remastered_iso import plain
from tests.drivers.machine import need

PXE = {"images/pxeboot/vmlinuz": "k", "images/pxeboot/initrd.img": "i"}
DEBIAN = {"install/vmlinuz": "k", "install/initrd.gz": "i"}
CASPER = {"casper/vmlinuz": "k", "casper/initrd": "i", "casper/install-sources.yaml": "s"}
SUSE = {"boot/x86_64/loader/linux": "k", "boot/x86_64/loader/initrd": "i"}
ROCKY = {**PXE, ".discinfo": "1700000000.1\nRocky Linux 8.9\nx86_64\n"}
BOOKWORM = {**DEBIAN, ".disk/info": 'Debian GNU/Linux 12.7.0 "Bookworm" - Official amd64 NETINST'}
SHORT = '<profile><general t="map"/></profile>'


def _fedora(number: str) -> dict[str, str]:
    return {**PXE, ".discinfo": f"1700000000.1\nFedora {number}\naarch64\n"}


def _media(folder: Path, tree: dict[str, str]) -> Media:
    need("xorriso")
    kernel, initrd = list(tree)[:2]
    menu = f"default start\nlabel start\n kernel /{kernel}\n append initrd=/{initrd} quiet\n"
    return inspect(plain(folder, tree={**tree, "isolinux/isolinux.cfg": menu}, without=("install.amd",)).iso)


@pytest.mark.parametrize(
    ("tree", "said", "used"),
    [
        (ROCKY, None, "RHEL8"),
        (ROCKY, "rhel9", "RHEL8"),
        (ROCKY, "kickseed", "kickseed"),
        (_fedora("40"), None, "F40"),
        (_fedora("99"), None, grammar.newest()),
        ({**PXE, ".discinfo": "1700000000.1\nRocky Linux 19.1\nx86_64\n"}, None, grammar.newest("RHEL")),
        ({**PXE, ".treeinfo": "[general]\nfamily = Qubes\nversion = 4.2\n"}, "f37", "f37"),
        (BOOKWORM, None, "kickseed"),
    ],
    ids=["rocky", "not what was said", "another dialect", "fedora", "a newer fedora", "a newer clone", "unknown", "debian"],
)  # fmt: skip
def test_the_medium_says_which_grammar(tmp_path: Path, tree: dict[str, str], said: str | None, used: str) -> None:
    assert fit.release(_media(tmp_path, tree), Answers.KICKSTART, said) == used


@pytest.mark.parametrize(
    ("tree", "kind", "text", "said", "told"),
    [
        (ROCKY, Answers.KICKSTART, "rootpw x\n", "kickseed", (False, "Rocky Linux 8.9")),
        (BOOKWORM, Answers.KICKSTART, "rootpw x\n", "rhel9", (False, "Debian GNU/Linux 12.7.0")),
        (ROCKY, Answers.KICKSTART, "rootpw x\n", "rocky9", (True, "Rocky Linux 8.9")),
        (ROCKY, Answers.KICKSTART, "url --url=http://h/rocky/9/BaseOS/x86_64/os/\n", None, (True, "release 9")),
        (ROCKY, Answers.KICKSTART, "url --url=http://h/rocky/8/BaseOS/aarch64/os/\n", None, (True, "aarch64")),
        (ROCKY, Answers.KICKSTART, "url --url=http://h/rocky/8.9/BaseOS/x86_64/os/\n", "alma8", None),
        (ROCKY, Answers.KICKSTART, "url --url http://10.0.0.9/8/os\nrepo --name=x --baseurl=http://h/x/3/\n", None, None),
        (BOOKWORM, Answers.PRESEED, "d-i a/b string c\nd-i mirror/suite string trixie\n", None, (True, "trixie")),
        (BOOKWORM, Answers.PRESEED, "d-i mirror/http/directory string /ubuntu\n", None, (True, "/ubuntu")),
        (BOOKWORM, Answers.PRESEED, "d-i mirror/suite string stable\nd-i mirror/http/directory string /debian\n", None, None),
        ({**CASPER, ".disk/info": 'Ubuntu-Server 18.04.6 LTS "Bionic Beaver" - Release amd64'}, Answers.AUTOINSTALL, "", None, (False, "18.04")),
        ({**CASPER, ".disk/info": 'Ubuntu-Server 20.04.6 LTS "Focal Fossa" - Release amd64'}, Answers.AUTOINSTALL, "", None, None),
        ({**SUSE, "media.1/products": "/ openSUSE-Leap 15.2-1\n"}, Answers.AUTOYAST, SHORT, None, (False, "15.2")),
        ({**SUSE, "media.1/products": "/ openSUSE-Leap 42.3-1\n"}, Answers.AUTOYAST, SHORT, None, (False, "42.3")),
        ({**SUSE, "media.1/products": "/ SLES15-SP5 15.5-0\n"}, Answers.AUTOYAST, SHORT, None, None),
        ({**SUSE, "media.1/products": "/ openSUSE 20240101-0\n"}, Answers.AUTOYAST, SHORT, None, None),
        ({**SUSE, "media.1/products": "/ openSUSE-Leap 15.2-1\n"}, Answers.AUTOYAST, "<profile/>", None, None),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    tmp_path: Path, tree: dict[str, str], kind: Answers, text: str, said: str | None, told: tuple[bool, str] | None
) -> None:
    found = fit.problems(_media(tmp_path, tree), kind, text, said)
    if told is None:
        assert found == []
    else:
        assert [(problem.remark, told[1] in problem.message) for problem in found] == [(told[0], True)], found


def test_an_anaconda_of_no_known_release_is_not_debians(tmp_path: Path) -> None:
    """A file that kickseed would take, too: no %end, and no command that only one of them has."""
    release = fit.release(
        _media(tmp_path, {**PXE, ".treeinfo": "[general]\nfamily = Qubes\n"}), Answers.KICKSTART, None
    )
    text = "rootpw x\nclearpart --all\npart / --size=1\n%packages\n@core\n"
    assert "does not end with %end" in check(Answers.KICKSTART, text, "ks.cfg", release)[0].message
    composed = compose(Answers.KICKSTART, text, Additions("ssh-ed25519 AAAA", "done"), release).decode()
    assert "%post --erroronfail" in composed


def test_another_processor(tmp_path: Path) -> None:
    media = _media(tmp_path, _fedora("40"))
    with pytest.raises(Refused, match=r"Fedora 40\) is for aarch64, the build machines are x86_64"):
        fit.require_architecture(media, "x86_64")
    fit.require_architecture(media, "aarch64")
    fit.require_architecture(media, "")  # a cloud decides
    old = {**DEBIAN, ".disk/info": 'Debian GNU/Linux 12.7.0 "Bookworm" - Official i386 NETINST'}
    fit.require_architecture(_media(tmp_path / "old", old), "x86_64")
