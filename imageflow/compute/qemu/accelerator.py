"""Finds out whether QEMU can use KVM here: only a guest that ran proves it.

/dev/kvm can be there, make virtual machines, run single instructions, and still need minutes for what
takes TCG a second (nested or paravirtual hosts). So a boot sector counts to 16 million in long mode,
which takes 0.01 s with working KVM, 0.1 s with TCG and 10 s with such a KVM.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import ImageflowError, Refused
from imageflow.host import process
from imageflow.host.alive import boot_id

KVM = "kvm"
TCG = "tcg"
_TIMEOUT = 5.0  # seconds
_ANSWER = "K"
_CODE = bytes.fromhex(  # probe.S
    "fa31c08ed88ec08ed0bc0070bf0010b90018f3ab66c70600100320000066c70600200330000066c70600308300000066b8001000000f22d8"
    "0f20e06683c8200f22e066b9800000c00f32660d000100000f300f0116a07c0f20c0660d010000800f22c0ea687c080066b810008ed0b900"
    "000001ffc975fcb04be6e9b0fee664f4ebfd660f1f440000000000000000000000000000009a200000000000009200001700887c"
)
SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_HINT = (
    "say [qemu] accelerator = auto, or see that /dev/kvm works: hardware virtualization, the kvm module, permissions"
)


def choose(config: Config) -> str:
    """The accelerator for machines; probed once per boot of the host. Raises Refused when the configured one can't work."""
    if config.qemu.accelerator == TCG:
        return TCG
    why_not = _kvm_trouble(config)
    if why_not is None:
        return KVM
    if config.qemu.accelerator == KVM:
        raise Refused(f"KVM does not work here: {why_not}", hint=_HINT)
    return TCG


def runs_guests(emulator: str, accelerator: str, cpu: str, sector: bytes = SECTOR) -> bool:
    """Whether a guest reaches the end of the boot sector in time."""
    with tempfile.NamedTemporaryFile(prefix="imageflow-probe-") as file:
        file.write(sector)
        file.flush()
        command = [emulator, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "pc"]
        command += ["-accel", accelerator, "-cpu", cpu, "-m", "64", "-debugcon", "stdio"]
        command += ["-drive", f"if=floppy,format=raw,file={file.name.replace(',', ',,')}"]
        with contextlib.suppress(ImageflowError):
            return process.output(command, timeout=_TIMEOUT) == _ANSWER
    return False


def _kvm_trouble(config: Config) -> str | None:
    cache = config.cache_dir / "kvm.json"
    question = [boot_id(), config.qemu.emulator, os.geteuid()]
    with contextlib.suppress(OSError, ValueError):
        stored = json.loads(cache.read_text())
        if stored["question"] == question:
            return str(stored["answer"]) if stored["answer"] else None
    answer = _ask(config.qemu.emulator)
    config.cache_dir.mkdir(parents=True, exist_ok=True)
    new = cache.with_name(f"{cache.name}.{os.getpid()}")
    new.write_text(json.dumps({"question": question, "answer": answer}))
    new.replace(cache)
    return answer


def _ask(emulator: str) -> str | None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm that this user may open"
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    if not {"vmx", "svm"} & set(flags.split()) and not Path("/sys/module/kvm_pvm").exists():
        return "the processor has no virtualization (vmx, svm)"
    if not runs_guests(emulator, KVM, "host"):
        return f"a guest of 512 bytes did not finish within {_TIMEOUT:.0f} s"
    return None
