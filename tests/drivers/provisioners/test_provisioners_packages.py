"""The provisioners packages and pip in a real Debian system; what they did is looked at from inside, without them."""

from __future__ import annotations

import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from imageflow.errors import Cancelled, CommandFailed, Refused
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from tests.drivers.provisioners.provisioned_guest import SECRETS, Site


def test_packages_are_installed_and_again_is_fine(site: Site) -> None:
    site.apply("packages", ["tree", "hello=2.10*"])
    assert site.sh("hello; tree --version | cut -c-4") == "Hello, world!\ntree\n"
    assert any(0.5 < share < 1 for share, _ in site.progress)
    assert "status:" not in site.said()
    assert "Setting up tree" in site.said()
    site.apply("packages", ["tree"])
    assert site.said().count("Reading package lists") >= 2
    assert len([line for line in site.said().splitlines() if "Get:" in line and "InRelease" in line]) <= 3


def test_other_words_than_names(site: Site) -> None:
    site.apply("packages", ["?exact-name(hello)", "tree/bookworm"])
    assert site.sh("hello; tree --version | cut -c-4") == "Hello, world!\ntree\n"


def test_a_layer_keeps_little_of_what_apt_needed(site: Site) -> None:
    """Compressed lists, for the next step, and nothing else; as Debian configures apt, whatever this host does."""
    site.sh(
        "printf '%s\\n' 'Acquire::GzipIndexes \"false\";' 'Dir::Cache::pkgcache \"pkgcache.bin\";' "
        "'Dir::Cache::srcpkgcache \"srcpkgcache.bin\";' 'APT::Keep-Downloaded-Packages \"true\";' "
        "> /etc/apt/apt.conf.d/99-stock; rm -rf /var/lib/apt/lists/* /var/cache/apt/*"
    )
    site.apply("packages", ["hello"])
    assert site.sh("find /var/cache/apt -type f ! -name lock") == ""
    lists = site.sh("ls /var/lib/apt/lists").split()
    assert any("_Packages." in name for name in lists)
    assert not [name for name in lists if name.endswith("_Packages")]


def test_a_package_that_is_not_there(site: Site) -> None:
    with pytest.raises(CommandFailed, match="packages no-such-package ended with exit code 100") as caught:
        site.apply("packages", ["no-such-package"])
    assert "Unable to locate package no-such-package" in caught.value.hint


def test_what_a_killed_install_left_half_done_is_finished(site: Site) -> None:
    site.apply("packages", ["hello"])
    site.sh("sed -i '/^Package: hello$/,/^$/s/^Status:.*/Status: install ok half-configured/' /var/lib/dpkg/status")
    assert "half-configured" in site.sh("dpkg -s hello | grep Status")
    site.apply("packages", ["tree"])
    assert "install ok installed" in site.sh("dpkg -s hello | grep Status")


@pytest.mark.parametrize("left", ["half-installed", "unpacked"])
@pytest.mark.parametrize("next_one", ["hello", "tree"])
def test_what_a_killed_install_was_unpacking_is_unpacked_again(site: Site, left: str, next_one: str) -> None:
    site.apply("packages", ["hello"])
    status = f"sed -i '/^Package: hello$/,/^$/s/^Status:.*/Status: install reinstreq {left}/' /var/lib/dpkg/status"
    site.sh(f"{status}; rm /usr/bin/hello")
    site.apply("packages", [next_one])
    assert site.sh("hello > /dev/null; dpkg --audit; dpkg -s hello | grep ^Status") == "Status: install ok installed\n"
    assert site.sh(f"dpkg -s {next_one} | grep ^Status") == "Status: install ok installed\n"


def test_a_worker_that_is_stopped_in_the_middle_of_an_install(site: Site) -> None:
    """Then dpkg is killed wherever it is; the next worker gets to the same end."""

    class Stopping(BuildLog):
        def __call__(self, text: str) -> None:
            super().__call__(text)
            if text.startswith("Unpacking"):
                site.control.stop(Cancelled("stop"))

    first, site.log = site.log, Stopping(site.log.path, SECRETS.values())
    with pytest.raises(Cancelled):
        site.apply("packages", ["nginx-light"])
    assert site.sh("pgrep -x 'apt-get|dpkg'") == ""
    site.log, site.control = first, Control(time.monotonic() + 120)
    site.apply("packages", ["nginx-light"])
    assert site.sh("dpkg --audit; nginx -v 2>&1 | cut -c-14; dpkg -s nginx-light | grep ^Status") == (
        "nginx version:\nStatus: install ok installed\n"
    )


def test_a_lock_that_somebody_else_holds_is_waited_for(site: Site) -> None:
    holder = (
        "import fcntl,time,os\nf=open('/var/lib/apt/lists/lock','a');fcntl.lockf(f,fcntl.LOCK_EX)\n"
        "g=open('/var/lib/dpkg/lock-frontend','a');fcntl.lockf(g,fcntl.LOCK_EX)\nopen('/root/held','w')\ntime.sleep(4)"
    )
    inside = ["nsenter", f"--target={site.guest.pid}", "--mount", "--pid", f"--root=/proc/{site.guest.pid}/root"]
    with subprocess.Popen([*inside, "--wd=/", "python3", "-c", holder]) as held:
        while not site.sh("ls /root/held 2>/dev/null"):
            time.sleep(0.05)
        site.apply("packages", ["hello"])
        assert held.wait() == 0
    assert "waiting for apt" in site.said()
    assert site.sh("hello") == "Hello, world!\n"


def test_a_machine_without_a_package_manager(site: Site) -> None:
    site.sh("mv /usr/bin/apt-get /usr/bin/apt-gone")
    with pytest.raises(Refused, match="has none of apt-get, dnf, zypper, apk"):
        site.apply("packages", ["tree"])


def test_pip_is_brought_along_and_installs_for_the_system(site: Site) -> None:
    _make_wheel(site.folder / "wheels")
    wheel = next((site.folder / "wheels").iterdir())
    site.connection.put(wheel, f"/opt/{wheel.name}", control=site.control)
    site.sh(
        "mkdir -p /root/.config/pip; printf '[global]\\nno-index = true\\nfind-links = /opt\\n' > /root/.config/pip/pip.conf"
    )
    site.apply("pip", ["tinything==1.*"])
    assert site.sh("cd /; python3 -c 'import tinything; print(tinything.ANSWER)'") == "42\n"
    assert "Setting up python3-pip" in site.said()
    site.apply("pip", ["tinything"])
    assert "already satisfied" in site.said()


def _make_wheel(folder: Path) -> None:
    folder.mkdir()
    name = "tinything-1.0"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinything.py", "ANSWER = 42\n")
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
