"""The summary of a settled build: the image and how to boot it, or what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imageflow.cli.present import duration, mark, size
from imageflow.model import BuildState, SubmissionVerdict

if TYPE_CHECKING:
    from imageflow.model import Build, Version
    from imageflow.recipe import ImageRecipe

BOOT_MEMORY = 1024  # MiB
FIRMWARE = ("/usr/share/ovmf/OVMF.fd", "/usr/share/edk2/ovmf/OVMF.fd", "/usr/share/qemu/OVMF.fd")  # code and variables
DISKS = ("qcow2", "raw", "vhd", "vhdx", "vmdk", "vdi")


def version_lines(version: Version) -> Iterator[str]:
    """Digest, size, packages, path and the command to boot it."""
    primary = version.artifacts[0] if version.artifacts else None
    yield f"  digest    sha256:{version.digest}"
    if primary is not None:
        virtual = f", a disk of {size(primary.virtual_size)}" if primary.virtual_size else ""
        yield f"  size      {size(primary.size)}{virtual}"
    if version.packages is not None:
        yield f"  packages  {version.packages}"
    yield f"  image     {version.path} in Glance" if version.store == "glance" else f"  path      {version.path}"
    for other in version.artifacts[1:]:
        yield f"  and       {other.name} ({other.format}, {size(other.size)})"


def boot_command(build: Build, version: Version) -> str | None:
    """A command that boots the image without changing it; None when we know no way."""
    from imageflow.recipe import ImageRecipe
    from imageflow.recipe.definition import has_boot_loader

    folder = Path(version.path).parent
    formats = {artifact.format: artifact for artifact in reversed(version.artifacts)}
    disk = next((artifact for artifact in version.artifacts if artifact.format in DISKS), None)
    if disk is None:
        return None
    image = ImageRecipe.from_json(build.recipe)
    alone = has_boot_loader(image)
    if not alone and not {"kernel", "initrd"} <= formats.keys():
        return None
    if version.store == "glance":
        named = f"openstack server create --flavor FLAVOR --network NETWORK --image {version.path} NAME"
        return named if disk is version.artifacts[0] else None
    drive = folder / disk.name if disk is not version.artifacts[0] else Path(version.path)
    machine = image.machine if image.on_machine else None
    memory = BOOT_MEMORY if machine is None else machine.memory
    command = [_emulator(image), "-m", str(memory), "-nographic", "-snapshot"]
    if machine is not None and machine.firmware == "uefi":
        command += ["-bios", next((path for path in FIRMWARE if os.path.exists(path)), FIRMWARE[0])]
    if _hardware_virtualization():
        command[1:1] = ["-enable-kvm"]
    command += ["-drive", f"file={drive},if=virtio,format={'vpc' if disk.format == 'vhd' else disk.format}"]
    if not alone:
        command += ["-kernel", str(folder / formats["kernel"].name), "-initrd", str(folder / formats["initrd"].name)]
        command += ["-append", "root=LABEL=cloudimg-rootfs ro console=ttyS0 net.ifnames=0"]
    return shlex.join(command)


def _emulator(image: ImageRecipe) -> str:
    arch = str(image.dib.get("arch") or "")
    return "qemu-system-aarch64" if arch in ("arm64", "aarch64") else "qemu-system-x86_64"


def _hardware_virtualization() -> bool:
    """/dev/kvm alone proves nothing: it may open on machines where guests are very slow."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and (" vmx" in flags or " svm" in flags)


def outcome_lines(
    build: Build, version: Version | None, verdict: SubmissionVerdict | None, reason: str, logins: Sequence[str] = ()
) -> Iterator[str]:
    """The state of a build in a few lines for a user; `logins` are commands that log into its machines."""
    if verdict is SubmissionVerdict.REUSED:
        yield f"{mark('succeeded')} {build.image}: reused, build {build.id}"
        yield f"  why       {reason}"
    elif build.state is BuildState.SUCCEEDED and build.started and build.ended:
        yield f"{mark(build.state)} {build.image}: built in {duration(build.ended - build.started)}, build {build.id}"
    else:
        yield f"{mark(build.state)} {build.image}: {build.state}, build {build.id}{' (joined)' if verdict is SubmissionVerdict.JOINED else ''}"
        if not build.state.ended and build.state is not BuildState.PAUSED:
            yield f"  why       {reason}"
    if version is not None:
        yield from version_lines(version)
        if command := boot_command(build, version):
            yield f"  boot it   {command}"
    if build.error:
        yield f"  error     {build.error}"
    if build.hint:
        yield f"  hint      {build.hint}"
    for login in logins:
        yield f"  log in    {login}"
    if build.state is BuildState.PAUSED:
        yield f"  go on     imageflow build resume {build.id} --wait"
        yield f"  give up   imageflow build abort {build.id} --wait"
    elif build.state in (BuildState.FAILED, BuildState.ABORTED, BuildState.CANCELLED):
        yield f"  log       imageflow build log {build.id}"
