"""What the driver qemu finds on the host: an accelerator that runs guests, firmware, memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from imageflow.compute import MachineSpec
from imageflow.compute.qemu import accelerator, argv, firmware
from imageflow.errors import Refused
from tests.drivers.compute_site import Site
from tests.servers.services import missing, require

pytestmark = pytest.mark.machine(seconds=5)


def test_the_probe_tells_a_guest_that_runs_from_one_that_does_not() -> None:
    require("QEMU", missing("qemu-system-x86_64"))
    assert accelerator.runs_guests("qemu-system-x86_64", "tcg", "max")
    assert not accelerator.runs_guests("qemu-system-x86_64", "tcg", "max", b"\xf4".ljust(510, b"\0") + b"\x55\xaa")
    assert not accelerator.runs_guests("qemu-system-x86_64", "no-such-accelerator", "max")


def test_the_probe_is_what_its_source_says(tmp_path: Path) -> None:
    require("binutils", missing("as", "ld"))
    source = Path(accelerator.__file__).with_name("probe.S")
    subprocess.run(["as", "-o", str(tmp_path / "o"), str(source)], check=True)
    link = [
        "ld",
        "-Ttext=0x7c00",
        "--oformat",
        "binary",
        "-e",
        "_start",
        "-o",
        str(tmp_path / "p"),
        str(tmp_path / "o"),
    ]
    subprocess.run(link, check=True)
    assert (tmp_path / "p").read_bytes() == accelerator.SECTOR


def test_kvm_is_asked_for_once_per_boot_of_the_host(bare: Site) -> None:
    config = dataclasses.replace(bare.config, qemu=dataclasses.replace(bare.config.qemu, accelerator="auto"))
    chosen = accelerator.choose(config)
    cache = config.cache_dir / "kvm.json"
    stored = json.loads(cache.read_text())
    assert (chosen == "kvm") == (stored["answer"] is None)
    cache.write_text(json.dumps({**stored, "answer": "it is Sunday"}))
    assert accelerator.choose(config) == "tcg"
    forced = dataclasses.replace(config, qemu=dataclasses.replace(config.qemu, accelerator="kvm"))
    with pytest.raises(Refused, match="it is Sunday") as caught:
        accelerator.choose(forced)
    assert "auto" in caught.value.hint
    cache.write_text(json.dumps({**stored, "question": "of another boot", "answer": "it is Sunday"}))
    assert accelerator.choose(config) == chosen
    cache.write_text("{")
    assert accelerator.choose(config) == chosen


def test_firmware_is_found_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Site) -> None:
    code, variables = tmp_path / "CODE.qcow2", tmp_path / "VARS.qcow2"
    code.touch(), variables.touch()
    descriptor = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "qcow2"},
            "nvram-template": {"filename": str(variables), "format": "qcow2"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}],
        "features": [],
    }
    (tmp_path / "50.json").write_text(json.dumps({**descriptor, "features": ["requires-smm"]}))
    (tmp_path / "60.json").write_text("{")
    (tmp_path / "70.json").write_text(json.dumps(descriptor))
    monkeypatch.setattr(firmware, "DESCRIPTORS", (tmp_path,))
    config = bare.config.qemu
    assert firmware.find(config) == (code, "qcow2", variables, "qcow2")
    given = dataclasses.replace(config, uefi_code=code, uefi_vars=tmp_path / "none")
    with pytest.raises(Refused, match="none"):
        firmware.find(given)
    with pytest.raises(Refused, match="only one"):
        firmware.find(dataclasses.replace(config, uefi_code=code))


def test_a_machine_takes_more_than_its_guest() -> None:
    spec = MachineSpec(memory=1024)
    assert argv.memory_need(spec, "kvm") < argv.memory_need(spec, "tcg") == 1024 + 512 + 64
