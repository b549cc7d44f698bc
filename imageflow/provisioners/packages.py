"""Packages of the distribution, installed with the machine's own package manager."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from imageflow.errors import Refused
from imageflow.host.buildlog import cleaner
from imageflow.provisioners import Context
from imageflow.provisioners.wording import listing

_STATUS = re.compile(r"(?:dl|pm)status:[^:]*:(?P<percent>[0-9.]+):(?P<text>.*)")

# apt: what a command that was killed left half done is finished first; archives are read when nothing is known of
# them, when what is known is older than this boot's hour, and once more when an install fails. What apt knows stays
# compressed and its caches are in memory only, as a layer keeps each block that was ever written.
_APT = """
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
kept='-o Acquire::GzipIndexes=true -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache='
apt() {
    apt-get -q $kept --assume-yes -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \\
        -o APT::Keep-Downloaded-Packages=false -o APT::Status-Fd=3 \\
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" 3>&1
}
update() {
    while ! said=$(apt-get -q $kept -o Acquire::Retries=3 update 2>&1); do
        case $said in
            *'Could not get lock'*) echo 'waiting for apt that is running already'; sleep 2 ;;
            *) printf '%s\\n' "$said" >&2; return 1 ;;
        esac
    done
    printf '%s\\n' "$said"
    touch /var/lib/apt/lists/imageflow-updated
}
broken() {
    dpkg-query -W -f '${Status} ${binary:Package}\\n' | sed -n 's/^.* reinstreq .* //p'
}
mend() {
    [ -z "$(broken)" ] || apt install --reinstall -- $(broken)
}
install_packages() {
    # a killed dpkg leaves packages to configure, and one that it was unpacking: apt takes that for installed
    if [ "$(ls /var/lib/dpkg/updates 2>/dev/null)" ] || dpkg --audit | grep -q .; then
        dpkg --configure -a || :
    fi
    fresh=$(find /var/lib/apt/lists/imageflow-updated -mmin -60 2>/dev/null || :)
    [ "$fresh" ] || update
    mend && apt install -- "$@" && return 0
    code=$?
    [ "$fresh" ] || return "$code"
    echo 'once more, with what the archives have now'
    dpkg --configure -a || :
    update
    mend && apt install -- "$@"
}
"""
_DNF = """
install_packages() { dnf --assumeyes --setopt=retries=5 --setopt=keepcache=0 install "$@"; }
"""
_ZYPPER = """
install_packages() {
    zypper --non-interactive --gpg-auto-import-keys refresh
    zypper --non-interactive install --auto-agree-with-licenses "$@" || case $? in
        102 | 103 | 106 | 107) ;;  # done; something should be restarted, or a script of a package complained
        *) return 1 ;;
    esac
}
"""
_APK = """
install_packages() { apk add --no-progress --wait 600 -U "$@"; }
"""
_BY_TOOL = {"apt-get": _APT, "dnf": _DNF, "zypper": _ZYPPER, "apk": _APK}


def functions(context: Context) -> str:
    """Shell functions for this machine: `install_packages NAME…`. Raises Refused when it has no package manager."""
    tool = context.guest.facts.packages
    if tool is None:
        raise Refused(
            f"the machine ({context.guest.facts.system}) has none of {', '.join(_BY_TOOL)}",
            hint="packages can't be installed there; use files and shell",
        )
    return _BY_TOOL[tool]


class Packages:
    """`- packages: [nginx, curl]`."""

    def title(self, value: Sequence[str]) -> str:
        return listing("packages", value)

    def sources(self, value: Sequence[str]) -> Sequence[str]:
        return ()

    def check(self, value: Sequence[str], folder: Path) -> None:
        pass

    def apply(self, value: Sequence[str], context: Context) -> None:
        script = f"set -e\n{functions(context)}\ninstall_packages {shlex.join(value)}\n"
        context.guest.run(script, control=context.control, log=progress_in(context), name=self.title(value))


def progress_in(context: Context) -> Callable[[str], None]:
    """A log that filters out apt's progress reports and passes them on: the second half is the unpacking."""
    return _Progress(context)


class _Progress:
    def __init__(self, context: Context) -> None:
        self._log, self._progress = context.log, context.progress
        self.clean = cleaner(context.log)

    def __call__(self, line: str) -> None:
        found = _STATUS.fullmatch(line)
        if found is None:
            self._log(line)
            return
        share = min(float(found["percent"]), 100.0) / 200 + (0.0 if line.startswith("dl") else 0.5)
        self._progress(min(share, 0.99), found["text"][:100])
