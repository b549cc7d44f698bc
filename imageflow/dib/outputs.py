"""Makes the files of a version of what diskimage-builder has left: converted, compressed, with digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow import process
from imageflow.control import Control
from imageflow.errors import CommandFailed, NoSpace, Refused
from imageflow.model import Artifact, Json

_PROGRESS = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_CHUNK = 1 << 20
_KERNELS = (("kernel", ".vmlinuz", (".vmlinuz", ".kernel")), ("initrd", ".initrd", (".initrd", ".initramfs")))
_SUFFIXES = {"squashfs": (".squash", ".squashfs"), "aci": (".aci",), "tar": (".tar",), "tgz": (".tar",)}
_DISKS = ("qcow2", "raw", "vhd")


@dataclass(frozen=True, slots=True)
class Finisher:
    """Turns `built`/`name`.* into the outputs in `folder`, named after the `image`."""

    built: Path
    name: str
    folder: Path
    image: str
    definition: Json
    control: Control
    log: Callable[[str], None]
    env: Mapping[str, str]

    def make(self, output: str, progress: Callable[[float], None]) -> list[tuple[Path, Artifact]]:
        """The files of one output; again is fine. Raises Refused when diskimage-builder left nothing for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if output == "kernel":
            return [self._kernel(kind, suffix, sources) for kind, suffix, sources in _KERNELS]
        to = self.folder / f"{self.image}.{output}"
        to.unlink(missing_ok=True)
        if output in _DISKS:
            source = self._find((".raw",), output)
            size = self._convert(output, source, to, progress)
            return [self._artifact(to, output, size)]
        source = self._find(_SUFFIXES[output], output)
        if output == "tgz":
            self._run(["gzip", "--no-name", "--keep", "--force", "-6", "--suffix", ".tgz-made", str(source)])
            made = source.with_name(source.name + ".tgz-made")
            self._take(made, to)
            made.unlink()
        else:
            self._take(source, to)
        return [self._artifact(to, output, None)]

    def _convert(self, output: str, source: Path, to: Path, progress: Callable[[float], None]) -> int:
        """-> the virtual size in bytes."""
        if output == "raw":
            self._take(source, to)
            return to.stat().st_size
        options = dict(self.definition.get("qemu-img-options", {})) if output == "qcow2" else {"subformat": "dynamic"}
        argv = ["qemu-img", "convert", "-p", "-m", "16", "-W", "-f", "raw", "-O", "vpc" if output == "vhd" else output]
        if output == "qcow2" and not self.definition.get("uncompressed"):
            argv.append("-c")
            if str(options.get("compat", "1.1")) != "0.10":  # the old format knows zlib only
                options.setdefault("compression_type", "zstd")
        if options:
            argv += ["-o", ",".join(f"{key}={value}" for key, value in options.items())]

        def watch(line: str) -> None:
            if match := _PROGRESS.search(line):
                progress(float(match[1]) / 100)
            elif line.strip():
                self.log(line)

        self._run([*argv, str(source), str(to)], watch)
        return source.stat().st_size if output == "qcow2" else self._virtual_size(to)

    def _virtual_size(self, file: Path) -> int:
        said = process.run(
            ["qemu-img", "info", "--output=json", str(file)], control=self.control, capture=True, env=self.env
        )
        return int(json.loads(said)["virtual-size"])

    def _kernel(self, kind: str, suffix: str, sources: Sequence[str]) -> tuple[Path, Artifact]:
        to = self.folder / f"{self.image}{suffix}"
        to.unlink(missing_ok=True)
        self._take(self._find(sources, "kernel"), to)
        return self._artifact(to, kind, None)

    def _find(self, suffixes: Sequence[str], output: str) -> Path:
        for suffix in suffixes:
            if (file := self.built / f"{self.name}{suffix}").is_file():
                return file
        left = ", ".join(sorted(file.name for file in self.built.glob("*"))[:10]) or "nothing"
        hint = "add the element 'baremetal'" if output == "kernel" else "see the build's log"
        raise Refused(f"diskimage-builder left nothing for the output {output!r}; there is: {left}", hint=hint)

    def _take(self, source: Path, to: Path) -> None:
        """The same file in another place: a second name where that is possible, else a copy with its holes."""
        try:
            os.link(source, to)
        except OSError:
            self._run(["cp", "--sparse=always", "--reflink=auto", "--", str(source), str(to)])

    def _artifact(self, file: Path, kind: str, virtual_size: int | None) -> tuple[Path, Artifact]:
        return file, artifact_of(file, kind, self.control, virtual_size)

    def _run(self, argv: list[str], log: Callable[[str], None] | None = None) -> None:
        try:
            process.run(argv, control=self.control, log=log or self.log, env=self.env)
        except CommandFailed as error:
            if "No space left" in error.hint:
                raise NoSpace(
                    f"{argv[0]}: no space left in {self.folder}", hint="free some space, then resume the build"
                ) from error
            raise


def artifact_of(file: Path, kind: str, control: Control, virtual_size: int | None = None) -> Artifact:
    """A finished file's record; reads it once for the digest."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with file.open("rb", buffering=0) as reader:
        while size := reader.readinto(buffer):
            digest.update(buffer[:size])
            control.check()
    return Artifact(file.name, kind, file.stat().st_size, digest.hexdigest(), virtual_size)
