"""From an ISO to a finished image: imageflow against Packer, and again after one changed line.

Both sides get the same ISO (a genuine Debian installer, made by `tests/guests`), the same preseed, machine
(two processors, 1 GiB, 4 GiB of disk, TCG) and post-configure, and make a compressed qcow2. imageflow does
more in the same time, all of it counted: it seals the image, boots a throw-away copy to verify it, hashes
and stores it durably. Packer's own zlib is replaced by zstd if Packer allows it; Debian's 1.6 does not.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.dib import ALONE, _run
from bench.measure import Result, Side, alternate, timed
from bench.site import write_config

MEMORY, PROCESSORS, DISK = 1024, 2, 4  # MiB, GiB
CONFIGURE = ("uname -r", "echo configured > /etc/imageflow")
BIN = Path(sys.executable).parent
# what Packer types: leave the menu, then the arguments of imageflow's boot entry
BOOT = (
    "<esc><wait>install auto=true priority=critical url=http://{{ .HTTPIP }}:{{ .HTTPPort }}/preseed.cfg"
    " DEBIAN_FRONTEND=text console=ttyS0,115200n8 netcfg/link_wait_timeout=1<enter>"
)


class Packer:
    """Packer's qemu builder by itself."""

    def __init__(self, folder: Path, iso: Path, preseed: str) -> None:
        self._folder = folder
        folder.mkdir()
        self.log = folder / "log"
        key = folder / "key"
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], self.log, None)
        (folder / "http").mkdir()
        lets_in = f"mkdir -p -m 700 /target/root/.ssh; echo '{key.with_suffix('.pub').read_text().strip()}' > /target/root/.ssh/authorized_keys"
        # Packer waits for the installed system, so the installer has to reboot into it
        reboots = preseed.replace(
            "debian-installer/exit/poweroff boolean true", "debian-installer/exit/poweroff boolean false"
        )
        (folder / "http/preseed.cfg").write_text(f"{reboots}\nd-i preseed/late_command string {lets_in}\n")
        builder = {
            "type": "qemu",
            "accelerator": "tcg",
            "headless": True,
            "iso_url": str(iso),
            "iso_checksum": "none",
            "output_directory": str(folder / "out"),
            "vm_name": "packer.qcow2",
            "disk_size": f"{DISK}G",
            "format": "qcow2",
            "disk_interface": "virtio",
            "net_device": "virtio-net",
            "disk_cache": "unsafe",
            "disk_compression": True,
            "http_directory": str(folder / "http"),
            "boot_wait": "4s",
            "boot_key_interval": "10ms",
            "boot_command": [BOOT],
            "ssh_username": "root",
            "ssh_private_key_file": str(key),
            "ssh_timeout": "20m",
            "shutdown_command": "poweroff",
            "memory": MEMORY,
            "cpus": PROCESSORS,
            "qemuargs": [["-serial", f"file:{folder / 'serial.log'}"], ["-device", "virtio-rng-pci"]],
        }
        template = {"builders": [builder], "provisioners": [{"type": "shell", "inline": list(CONFIGURE)}]}
        (folder / "template.json").write_text(json.dumps(template, indent=1))

    def build(self) -> None:
        """One image, to its end."""
        shutil.rmtree(self._folder / "out", ignore_errors=True)
        env = {**os.environ, "PACKER_CACHE_DIR": str(self._folder / "cache"), "CHECKPOINT_DISABLE": "1"}
        _run([*ALONE, "packer", "build", str(self._folder / "template.json")], self.log, env)
        assert (self._folder / "out/packer.qcow2").stat().st_size > 50 << 20


class Ours:
    """The same with imageflow, each time in a new process."""

    def __init__(self, folder: Path, iso: Path, preseed: str) -> None:
        self._config = write_config(folder)
        self._folder = folder
        with self._config.open("a") as file:
            file.write("[qemu]\naccelerator = tcg\n")
        (folder / "preseed.cfg").write_text(preseed)
        self._iso = iso
        self._changes = 0

    def build(self) -> None:
        """The whole build, without any layer."""
        self._imageflow("layer", "collect", "--all")
        self._create()

    def rebuild(self) -> None:
        """A build whose last line of `configure` differs from the one before."""
        self._changes += 1
        self._create()

    def steps(self) -> str:
        """Where the time of the last build went."""
        return self._imageflow("build", "show")

    def clean(self) -> None:
        """Delete the machines of a failed measurement."""
        for row in json.loads(self._imageflow("build", "list", "--state", "paused", "-f", "json")):
            self._imageflow("build", "abort", row["id"], "--wait")

    def _create(self) -> None:
        *first, last = CONFIGURE
        image: dict[str, Any] = {
            "name": "bench",
            "method": "install",
            "iso": {"file": str(self._iso)},
            "answers": {"preseed": "preseed.cfg"},
            "machine": {"vcpus": PROCESSORS, "memory": MEMORY, "disk": DISK},
            "configure": [*({"shell": line} for line in first), {"shell": f"{last}  # {self._changes}"}],
        }
        recipe = self._folder / "recipe.yaml"
        recipe.write_text(json.dumps({"images": [image]}))  # JSON is YAML
        force = ("--force",) if not self._changes else ()
        [row] = json.loads(self._imageflow("build", "create", "--wait", *force, "-f", "json", str(recipe)))
        assert (row["verdict"], row["state"]) == ("created", "succeeded"), row
        assert Path(row["path"]).stat().st_size > 50 << 20

    def _imageflow(self, *words: str) -> str:
        argv = [str(BIN / "imageflow"), "--config-file", str(self._config), *words]
        return _run(argv, self._folder / "log", dict(os.environ))


def run(rounds: int = 3) -> list[Result]:
    """Wall seconds of whole processes."""
    from tests.guests import ANSWERS, debian_installer

    iso, preseed = debian_installer.iso(), (ANSWERS / "preseed.cfg").read_text()
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        packer = Packer(Path(name) / "packer", iso, preseed)
        ours = Ours(Path(name) / "ours", iso, preseed)
        try:
            sides = (Side("imageflow, s", timed(ours.build)), Side("Packer, s", timed(packer.build)))
            alternate(sides, rounds, warm_up=0)
            print(ours.steps(), flush=True)
            again = Side("imageflow, one line changed, s", timed(ours.rebuild))
            alternate((again,), rounds, warm_up=0)
            print(ours.steps(), flush=True)
        finally:
            ours.clean()
    pairs = [one / other for one, other in zip(sides[0].values, sides[1].values, strict=True)]
    note = f"pair by pair: {' '.join(f'{pair:.3f}' for pair in pairs)}; their median {statistics.median(pairs):.3f}"
    return [
        Result(
            "an installation from an ISO against Packer's",
            sides[0].median,
            sides[1].median,
            "s",
            1.0,
            notes=(
                note,
                "ours includes sealing, a throw-away boot that verifies the image, SHA-256 and durable storage",
            ),
        ),
        Result(
            "again after one changed configure line, against the same Packer run",
            again.median,
            sides[1].median,
            "s",
            0.2,
        ),
    ]
