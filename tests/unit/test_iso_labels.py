"""What labels and descriptions of real media say."""

from __future__ import annotations

import pytest

from imageflow.iso.answers import grammar
from imageflow.iso.identity import described, labelled

LABELS = {
    "Rocky-9-4-x86_64-dvd": ("9.4", "x86_64", "RHEL9"),
    "CentOS 7 x86_64": ("7", "x86_64", "RHEL7"),
    "CentOS-Stream-9-BaseOS-x86_64": ("9", "x86_64", "RHEL9"),
    "RHEL-9-3-0-BaseOS-x86_64": ("9.3", "x86_64", "RHEL9"),
    "RHEL-7.9 Server.x86_64": ("7.9", "x86_64", "RHEL7"),
    "OL-8-8-0-BaseOS-x86_64": ("8.8", "x86_64", "RHEL8"),
    "OL7.9 Server.x86_64": ("7.9", "x86_64", "RHEL7"),
    "AlmaLinux-10-0-aarch64-dvd": ("10.0", "aarch64", "RHEL10"),
    "Fedora-S-dvd-x86_64-40": ("40", "x86_64", "F40"),
    "openSUSE-Leap-15.5-DVD-x86_6422": ("15.5", "", None),
    "ISOIMAGE": ("", "", None),
}
DESCRIPTIONS = {
    'Debian GNU/Linux 12.7.0 "Bookworm" - Official amd64 NETINST with firmware 20240831-10:38': (
        "Debian GNU/Linux", "12.7.0", "bookworm", "x86_64",
    ),
    'Debian GNU/Linux testing "Trixie" - Official Snapshot arm64 NETINST 20240101-00:00': (
        "Debian GNU/Linux testing", "", "trixie", "aarch64",
    ),
    'Ubuntu-Server 22.04.3 LTS "Jammy Jellyfish" - Release amd64 (20230810)': (
        "Ubuntu-Server", "22.04.3", "jammy", "x86_64",
    ),
    "Devuan GNU/Linux 5.0 daedalus i386 - server 20230815": ("Devuan GNU/Linux", "5.0", "", "i686"),
    'Debian GNU/Linux 11.0.0 "Bullseye" - Official amd64/i386 NETINST': ("Debian GNU/Linux", "11.0.0", "bullseye", ""),
}  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_labels(label: str) -> None:
    release, architecture, kickstart = LABELS[label]
    it = labelled(label)
    assert (it.release, it.architecture) == (release, architecture)
    assert grammar.release_of(f"{it.distribution} {it.major}") == kickstart


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_descriptions(text: str) -> None:
    it = described(text)
    assert (it.distribution, it.release, it.codename, it.architecture) == DESCRIPTIONS[text]


@pytest.mark.parametrize(
    "name",
    [
        "rhel", "RHEL-", "el", "c", "ol", "rocky", "Rocky Linux ", "AlmaLinux ", "alma-", "CentOS Linux ", "CentOS Stream ",
        "centos-stream-", "Oracle Linux Server ", "Red Hat Enterprise Linux ", "Scientific Linux ", "EuroLinux ", "CloudLinux ",
        "Springdale Open Enterprise Linux ", "MIRACLE LINUX ", "Circle Linux ",
    ],
)  # fmt: skip
def test_all_of_these_are_red_hats(name: str) -> None:
    assert grammar.release_of(f"{name}8") == grammar.release_of(f"{name}8.10") == "RHEL8"
