"""Finds UEFI firmware: by QEMU's firmware descriptors, otherwise where distributions install it."""

from __future__ import annotations

import contextlib
import fnmatch
import json
from pathlib import Path
from typing import Any, NamedTuple

from imageflow.config.building import QemuConfig
from imageflow.errors import Refused

# QEMU's docs/interop/firmware.json; the first folder wins for files of one name
DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_MACHINE = "pc-i440fx-7.2"
_UNWANTED = {"requires-smm", "secure-boot", "enrolled-keys"}
_PLACES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),  # older ones, and RHEL's compatible names
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),  # Fedora, RHEL
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),  # Arch
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),  # SUSE
)


class Firmware(NamedTuple):
    """The two files of UEFI flash memory."""

    code: Path
    code_format: str  # raw, qcow2
    variables: Path  # empty template; every machine gets its own copy
    variables_format: str


def find(config: QemuConfig) -> Firmware:
    """UEFI firmware without Secure Boot; raises Refused when there is none."""
    if config.uefi_code or config.uefi_vars:
        if config.uefi_code is None or config.uefi_vars is None:
            raise Refused("only one of [qemu] uefi_code and uefi_vars is set", hint="set both, or none")
        found = Firmware(config.uefi_code, _format(config.uefi_code), config.uefi_vars, _format(config.uefi_vars))
        missing = [str(file) for file in (found.code, found.variables) if not file.is_file()]
        if missing:
            raise Refused(f"there is no UEFI firmware {', '.join(missing)}", hint="see [qemu] uefi_code and uefi_vars")
        return found
    for firmware in (*_described(), *(Firmware(Path(code), "raw", Path(vars), "raw") for code, vars in _PLACES)):
        if firmware.code.is_file() and firmware.variables.is_file():
            return firmware
    raise Refused(
        "there is no UEFI firmware on this machine",
        hint="install ovmf (Debian, Ubuntu), edk2-ovmf (Fedora) or qemu-ovmf-x86_64 (SUSE), "
        "or set [qemu] uefi_code and uefi_vars",
    )


def _format(path: Path) -> str:
    return "qcow2" if path.suffix == ".qcow2" else "raw"


def _described() -> list[Firmware]:
    files: dict[str, Path] = {}
    for folder in DESCRIPTORS:
        for file in folder.glob("*.json") if folder.is_dir() else ():
            files.setdefault(file.name, file)
    found = []
    for _, file in sorted(files.items()):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            firmware = _of(json.loads(file.read_text()))
            if firmware is not None:
                found.append(firmware)
    return found


def _of(descriptor: dict[str, Any]) -> Firmware | None:
    mapping = descriptor["mapping"]
    fits = (
        "uefi" in descriptor["interface-types"]
        and mapping["device"] == "flash"
        and not _UNWANTED & set(descriptor["features"])
        and any(
            target["architecture"] == "x86_64" and any(fnmatch.fnmatch(_MACHINE, m) for m in target["machines"])
            for target in descriptor["targets"]
        )
    )
    if not fits:
        return None
    code, variables = mapping["executable"], mapping["nvram-template"]
    return Firmware(Path(code["filename"]), code["format"], Path(variables["filename"]), variables["format"])
