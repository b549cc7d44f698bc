"""The genuine Debian installer on an ISO: its kernel, front end, preseed, kickseed, netcfg and main menu.

What partitions and installs is one item of its menu (debian_files/postinst), which unpacks a base system
from the CD: many of the installer's components can't be downloaded everywhere. It follows a preseed
(`/preseed.cfg` in the initrd, `preseed/file=` …) or a kickstart (`ks=file:/ks.cfg`), installs to one
partition of partman-auto/disk with GRUB for BIOS, and runs late_command or %post. The installed system
has systemd, OpenSSH, ifupdown with DHCP on eth0, and apt with the archives of this machine.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.guests import cache, debs, media, tiny
from tests.guests.debs import run
from tests.servers.services import missing, require

_FILES = Path(__file__).parent / "debian_files"
_NETBOOT = "debian-installer/amd64"  # below the images of the package debian-installer-12-netboot-amd64
_MODULES = ("virtio_blk", "ext4", "isofs", "sr_mod", "ata_piix", "ahci")
_TOOLS = ("e2fsprogs", "libext2fs2", "libcom-err2", "libblkid1", "libuuid1")
_TOOLS += ("zstd", "libzstd1", "liblz4-1", "liblzma5", "zlib1g", "libgcc-s1", "libstdc++6")
_KICKSEED = ("kickseed-common", "initrd-kickseed")
_LEFT_OUT = ("choose-mirror", "download-installer")  # they would load components that are not on this ISO
BASE = ("systemd-sysv", "udev", "ifupdown", "isc-dhcp-client", "openssh-server", "iproute2", "netbase", "e2fsprogs")
BASE += ("grub-pc", "linux-image-cloud-amd64", "initramfs-tools", "ca-certificates", "zstd", "apt", "dbus")


def iso() -> Path:
    """The ISO; never write to it."""
    return parts() / "debian.iso"


@functools.cache
def parts() -> Path:
    """The folder with the ISO, and kernel and initrd.gz as they are on it."""
    media.require_parts()
    tiny.require_programs(*media.PROGRAMS, "depmod")
    images = Path("/usr/lib/debian-installer/images")
    found = sorted(images.glob(f"*/amd64/text/{_NETBOOT}/initrd.gz")) if images.is_dir() else []
    require("debian-installer-12-netboot-amd64", None if found else "no images of Debian's installer")
    netboot = found[-1].parent
    system = base()
    words = [system.name, *(f"{n} {v}" for n, v in debs.versions(_TOOLS).items()), str(netboot.stat().st_mtime_ns)]
    code = [_FILES, Path(__file__), Path(media.__file__)]
    return cache.made("debian-installer", cache.digest(code, words), functools.partial(_make, netboot, system))


@functools.cache
def base() -> Path:
    """The folder with base.tar.zst."""
    require("mmdebstrap, zstd", missing("mmdebstrap", "zstd"))
    versions = debs.versions(BASE)
    words = (f"{n} {v}" for n, v in versions.items())
    return cache.made("debian-base", cache.digest([], [*words, *_bootstrap("")]), _make_base)


def _bootstrap(to: str) -> list[str]:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")]
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(BASE)}", *excluded),
        *("--aptopt=Apt::Install-Recommends false", "--customize-hook=rm -f $1/etc/ssh/ssh_host_*", to),
    ]


def _make_base(to: Path) -> None:
    run(*[a for a in _bootstrap("") if a], debs.suite(), to / "base.tar", "-", stdin=debs.sources().encode())
    run("zstd", "-q", "-T0", "-12", "--rm", to / "base.tar")


def _make(netboot: Path, system: Path, to: Path) -> None:
    work = to / "work"
    initrd = work / "initrd"
    initrd.mkdir(parents=True)
    run("sh", "-c", f"zcat {netboot}/initrd.gz | cpio -idm --quiet --no-absolute-filenames", cwd=initrd)
    (version,) = os.listdir(initrd / "lib/modules")
    _add_modules(work, initrd, version)
    _add_tools(work, initrd)
    _add_kickseed(work, initrd)
    _add_item(initrd)
    tiny.archive(initrd, to / "initrd.gz")
    shutil.copy(netboot / "linux", to / "kernel")
    tree = work / "tree"
    tree.mkdir()
    os.link(system / "base.tar.zst", tree / "base.tar.zst")
    info = 'Debian GNU/Linux 12 "Bookworm" - imageflow test amd64 NETINST'
    media.iso(to / "debian.iso", tree, to / "kernel", to / "initrd.gz", info=info, volume="Debian 12 test amd64 n")
    (to / "debian.iso").chmod(0o444)
    shutil.rmtree(work)


def _add_modules(work: Path, initrd: Path, version: str) -> None:
    """Drivers for disk, CD and file systems, from the package with the same kernel."""
    name = f"linux-image-{version}"
    debs.versions((name,))
    debs.unpack([name], work / "kernel")
    tree = work / "kernel/lib/modules" / version
    run("depmod", "-b", work / "kernel", version)
    lines = (tree / "modules.dep").read_text().splitlines()
    needs = {Path(path).stem: [path, *rest.split()] for path, _, rest in (line.partition(":") for line in lines)}
    for module in _MODULES:
        for path in needs[module]:
            new = initrd / "lib/modules" / version / path
            if not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tree / path, new)
    run("depmod", "-b", initrd, version)


def _add_tools(work: Path, initrd: Path) -> None:
    debs.unpack(_TOOLS, work / "tools")
    tools = work / "tools"
    shutil.copy(tools / "sbin/mke2fs", initrd / "sbin/mkfs.ext4")
    shutil.copy(tools / "etc/mke2fs.conf", initrd / "etc")
    shutil.copy(tools / "usr/bin/zstd", initrd / "bin")
    libraries = "libext2fs|libe2p|libcom_err|libblkid|libuuid|libzstd|liblz4|liblzma|libz|libgcc_s|libstdc\\+\\+"
    folder = initrd / "lib/x86_64-linux-gnu"
    folder.mkdir(exist_ok=True)
    for path in tools.rglob("*.so.*"):
        if re.match(rf"({libraries})\.so\.\d+$", path.name) and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)


def _add_kickseed(work: Path, initrd: Path) -> None:
    debs.unpack_udebs(_KICKSEED, work / "kickseed", initrd / "var/lib/dpkg/info")
    shutil.copytree(work / "kickseed", initrd, symlinks=True, dirs_exist_ok=True)


def _add_item(initrd: Path) -> None:
    status = initrd / "var/lib/dpkg/status"
    packages = status.read_text().split("\n\n")
    for at, text in enumerate(packages):
        if re.search(rf"^Package: ({'|'.join(_LEFT_OUT)})$", text, re.M):
            packages[at] = re.sub(r"^Installer-Menu-Item:.*\n?", "", text, flags=re.M)
    status.write_text("\n\n".join(packages).rstrip() + "\n" + (_FILES / "status").read_text())
    for name in ("templates", "postinst"):
        shutil.copy(_FILES / name, initrd / f"var/lib/dpkg/info/imageflow-base.{name}")
    (initrd / "var/lib/dpkg/info/imageflow-base.postinst").chmod(0o755)


def arguments(kind: str, console: str = "ttyS0,115200") -> Sequence[str]:
    """The kernel's arguments for an unattended installation with `preseed.cfg` or `ks.cfg` in the initrd."""
    own = ("ks=file:/ks.cfg",) if kind == "ks.cfg" else ()
    return ("auto=true", "priority=critical", "DEBIAN_FRONTEND=text", *own, f"console={console}")
