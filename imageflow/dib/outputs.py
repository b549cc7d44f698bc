"""Makes the files of a version from diskimage-builder's files: converted, compressed, with digests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow.errors import Refused
from imageflow.host import disk_files
from imageflow.host.control import Control
from imageflow.model import Artifact, Json

_KERNELS = (("kernel", ".vmlinuz", (".vmlinuz", ".kernel")), ("initrd", ".initrd", (".initrd", ".initramfs")))
_SUFFIXES = {"squashfs": (".squash", ".squashfs"), "aci": (".aci",), "tar": (".tar",), "tgz": (".tar",)}


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
        """The files of one output; idempotent. Raises Refused when diskimage-builder made nothing for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if output == "kernel":
            return [self._kernel(kind, suffix, sources) for kind, suffix, sources in _KERNELS]
        to = self.folder / f"{self.image}.{output}"
        to.unlink(missing_ok=True)
        if output in disk_files.DISKS:
            source = self._find((".raw",), output)
            size = self._convert(output, source, to, progress)
            return [self._artifact(to, output, size)]
        source = self._find(_SUFFIXES[output], output)
        if output == "tgz":
            argv = ["gzip", "--no-name", "--keep", "--force", "-6", "--suffix", ".tgz-made", str(source)]
            disk_files.run(argv, source.parent, control=self.control, log=self.log, env=self.env)
            made = source.with_name(source.name + ".tgz-made")
            self._take(made, to)
            made.unlink()
        else:
            self._take(source, to)
        return [self._artifact(to, output, None)]

    def _convert(self, output: str, source: Path, to: Path, progress: Callable[[float], None]) -> int:
        """Convert one file; -> its virtual size in bytes."""
        return disk_files.convert(
            source,
            "raw",
            to,
            output,
            options=self.definition.get("qemu-img-options") if output == "qcow2" else None,
            compressed=not self.definition.get("uncompressed"),
            control=self.control,
            log=self.log,
            progress=progress,
            env=self.env,
        )

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
        raise Refused(f"diskimage-builder made nothing for the output {output!r}; it made: {left}", hint=hint)

    def _take(self, source: Path, to: Path) -> None:
        disk_files.take(source, to, control=self.control, log=self.log, env=self.env)

    def _artifact(self, file: Path, kind: str, virtual_size: int | None) -> tuple[Path, Artifact]:
        return file, disk_files.artifact_of(file, kind, self.control, virtual_size)
