"""Makes the files of a version from a finished disk: converted and compressed by qemu-img, with digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from imageflow.errors import CommandFailed, NoSpace
from imageflow.host import environment, process
from imageflow.host.control import Control
from imageflow.model import Artifact

DISKS = ("qcow2", "raw", "vhd")  # the outputs that `convert` makes
_PROGRESS = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_NAMES = {"vhd": "vpc"}  # qemu's names, if different
_COROUTINES = "16"  # qemu-img's maximum; it compresses in one thread per processor
_CHUNK = 1 << 20


def convert(
    source: Path,
    source_format: str,
    to: Path,
    output: str,
    *,
    options: Mapping[str, object] | None = None,
    compressed: bool = True,
    control: Control,
    log: Callable[[str], None],
    progress: Callable[[float], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Make `to`, a single self-contained file, from a disk that is not in use; -> its virtual size in bytes.

    `output` is one of DISKS, `options` are qemu-img's for it. qcow2 is compressed with zstd, unless its
    options say otherwise or its `compat` does not allow it. An existing `to` is replaced. raw to raw is a hard
    link if possible. Raises NoSpace, CommandFailed, and what `control` raises.
    """
    to.unlink(missing_ok=True)
    if output == source_format == "raw":
        take(source, to, control=control, log=log, env=env)
        return to.stat().st_size
    chosen = dict(options or {})
    argv = [
        "qemu-img",
        "convert",
        "-p",
        "-m",
        _COROUTINES,
        "-W",
        "-f",
        _NAMES.get(source_format, source_format),
        "-O",
        _NAMES.get(output, output),
    ]
    if output == "qcow2" and compressed:
        argv.append("-c")
        if str(chosen.get("compat", "1.1")) != "0.10":  # the old format supports only zlib
            chosen.setdefault("compression_type", "zstd")
    if output == "vhd":
        chosen.setdefault("subformat", "dynamic")
    if chosen:
        argv += ["-o", ",".join(f"{key}={value}" for key, value in chosen.items())]

    def watch(line: str) -> None:
        if match := _PROGRESS.search(line):
            progress(float(match[1]) / 100)
        elif line.strip():
            log(line)

    run([*argv, str(source), str(to)], to.parent, control=control, log=watch, env=env)
    return virtual_size(to, "vpc" if output == "vhd" else output, control=control, env=env)


def virtual_size(file: Path, format: str, *, control: Control, env: Mapping[str, str] | None = None) -> int:
    """The disk size in bytes that a guest sees."""
    if format == "raw":
        return file.stat().st_size
    argv = ["qemu-img", "info", "--output=json", "-f", format, str(file)]
    return int(json.loads(process.run(argv, control=control, capture=True, env=env))["virtual-size"])


def take(
    source: Path, to: Path, *, control: Control, log: Callable[[str], None], env: Mapping[str, str] | None = None
) -> None:
    """Put the same file in another place: a hard link if possible, otherwise a sparse copy."""
    try:
        os.link(source, to)
    except OSError:
        argv = ["cp", "--sparse=always", "--reflink=auto", "--", str(source), str(to)]
        run(argv, to.parent, control=control, log=log, env=env)


def run(
    argv: list[str],
    folder: Path,
    *,
    control: Control,
    log: Callable[[str], None],
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command that fills `folder`; raises NoSpace when it is full, otherwise as process.run does."""
    try:
        process.run(
            argv, control=control, log=log, env={**(environment.passed() if env is None else env), "LC_ALL": "C"}
        )
    except CommandFailed as error:
        if "No space left" in error.hint or "Disk quota exceeded" in error.hint:
            raise NoSpace(
                f"{argv[0]}: no space left in {folder}", hint="free some space, then resume the build"
            ) from error
        raise


def artifact_of(file: Path, kind: str, control: Control, virtual_size: int | None = None) -> Artifact:
    """A finished file's record; reads it once for the digest, from the page cache if it was just written."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with file.open("rb", buffering=0) as reader:
        while size := reader.readinto(buffer):
            digest.update(buffer[:size])
            control.check()
    return Artifact(file.name, kind, file.stat().st_size, digest.hexdigest(), virtual_size)
