"""What an installer's ISO says of itself: which installer, distribution, release and architecture it has."""

from __future__ import annotations

import configparser
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imageflow.iso.bootconfig import BootEntry
from imageflow.iso.volume import Tree

_LONGEST = 1 << 16  # bytes of a file that is read here
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "x86-64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "i386": "i686",
    "i486": "i686",
    "i586": "i686",
    "i686": "i686",
    "ppc64le": "ppc64le",
    "ppc64el": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_ARCHITECTURE = re.compile(rf"(?<![a-z0-9])({'|'.join(_ARCHITECTURES)})(?![a-z0-9])", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?![\w])")
_INFO = re.compile(r"(?:Official )?(?P<name>[A-Za-z][A-Za-z /-]*?)(?: Live)? (?P<number>\d[\d.]*)")
_CODENAME = re.compile(r'"([A-Za-z]+)')
# names in volume labels: the label of a medium is all that some of them say
_LABEL = re.compile(
    r"(?P<name>Rocky|AlmaLinux|CentOS-Stream|CentOS|RHEL|OL|Fedora|EuroLinux|openSUSE-Leap|SLE|openEuler|Scientific)"
    r"[^0-9]*?(?P<number>\d+(?:[.-]\d+)?)(?!\d)",
    re.IGNORECASE,
)
_SUSE = re.compile(r"suse|sle[sd]?\b|sle-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Identity:
    """An ISO's system; '' for what it does not say."""

    family: str  # debian, anaconda, subiquity, autoyast, agama, ubiquity, unknown
    distribution: str = ""  # as the medium writes it: Rocky Linux, Ubuntu-Server
    release: str = ""  # 9.4
    codename: str = ""  # of Debian and Ubuntu, small letters
    architecture: str = ""  # x86_64, aarch64, i686 …

    @property
    def major(self) -> int:
        """The first number of the release; 0 if it is not known."""
        found = re.match(r"\d+", self.release)
        return int(found[0]) if found else 0

    @property
    def shown(self) -> str:
        """For messages: 'Rocky Linux 9.4', or the installer's family."""
        return f"{self.distribution} {self.release}".strip() or self.family


def identify(tree: Tree, label: str, entries: Sequence[BootEntry], chosen: BootEntry) -> Identity:
    """Read the medium's own description of itself; `chosen` is the entry that would be booted."""
    info = _read(tree, "/.disk/info").strip()
    own = described(info) if info else _of_trees(tree)
    if not info and not own.release:
        other = labelled(label)
        own = replace(own, distribution=own.distribution or other.distribution, release=other.release)
    architecture = own.architecture or _one(label) or _one(" ".join(e.kernel for e in entries))
    return replace(own, family=_family(tree, entries, chosen, own.distribution, info), architecture=architecture)


def described(text: str) -> Identity:
    """What the line in Debian's and Ubuntu's /.disk/info says; without the family."""
    found, code = _INFO.match(text), _CODENAME.search(text)
    name = found["name"].strip() if found else re.split(r'["-]', text)[0].strip()
    return Identity("", name, found["number"] if found else "", code[1].lower() if code else "", _one(text))


def labelled(label: str) -> Identity:
    """What a volume's label says; without the family."""
    found = _LABEL.search(_ARCHITECTURE.sub("", label))
    name, number = (found["name"], found["number"].replace("-", ".")) if found else ("", "")
    return Identity("", name, number, "", _one(label))


def _family(tree: Tree, entries: Sequence[BootEntry], chosen: BootEntry, name: str, info: str) -> str:
    def there(*paths: str) -> bool:
        return any(tree.find(path) for path in paths)

    if there("/casper"):
        return "subiquity" if _has_subiquity(tree, info) or not chosen.kernel.startswith("/casper/") else "ubiquity"
    suse = there("/boot/x86_64/loader/linux", "/boot/aarch64/linux", "/control.xml", "/media.1") or _SUSE.match(name)
    if suse:
        return "agama" if chosen.live else "autoyast"
    if there("/.treeinfo", "/images/install.img", "/images/pxeboot") or any(
        "inst.stage2=" in e.arguments for e in entries
    ):
        return "anaconda"
    if there("/install.amd", "/install.a64", "/install.386", "/install", "/preseed") or "Debian" in info:
        return "debian"
    return "unknown"


def _has_subiquity(tree: Tree, info: str) -> bool:
    """Whether it is the installer that reads autoinstall, and not a live desktop's."""
    folder = tree.find("/casper")
    names = [entry.name for entry in tree.folder(folder.lba, folder.size)] if folder is not None else []
    return info.startswith("Ubuntu-Server") or any(
        name == "install-sources.yaml" or "installer" in name for name in names
    )


def _of_trees(tree: Tree) -> Identity:
    """What the files of Red Hat's and SUSE's media say; without the family."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(_read(tree, "/.treeinfo"))
    except configparser.Error:
        parser.clear()
    name = parser.get("release", "name", fallback="") or parser.get("general", "family", fallback="")
    number = parser.get("release", "version", fallback="") or parser.get("general", "version", fallback="")
    architecture = parser.get("tree", "arch", fallback="") or parser.get("general", "arch", fallback="")
    lines = _read(tree, "/.discinfo").splitlines()
    if len(lines) > 2 and not number:  # time, name with release, architecture
        found = _NUMBER.search(lines[1])
        number = found[0] if found else ""
        name = name or lines[1][: found.start() if found else None].strip()
        architecture = architecture or lines[2].strip()
    product = _read(tree, "/media.1/products").strip()
    if product and not number:  # "/ openSUSE-Leap 15.6-1", "/ SLES15-SP5 15.5-0"
        found = _NUMBER.search(product)
        number = found[0] if found else ""
        name = name or product[: found.start() if found else None].strip("/ -")
    return Identity("", name, number, "", _ARCHITECTURES.get(architecture.lower(), architecture.lower()))


def _one(text: str) -> str:
    """The architecture that a text names, '' for none or more than one."""
    found = {_ARCHITECTURES[match] for match in _ARCHITECTURE.findall(text.lower())}
    return found.pop() if len(found) == 1 else ""


def _read(tree: Tree, path: str) -> str:
    entry = tree.find(path)
    if entry is None or entry.folder or entry.size > _LONGEST:
        return ""
    return tree.content(entry).decode("utf-8", "replace")
