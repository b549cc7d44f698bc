"""The first steps of a build on a machine: its work folder, the layer to reuse, and the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from imageflow import fetch
from imageflow.compute import FORMATS, Compute, MachineState
from imageflow.config import Config
from imageflow.errors import Corrupt, InputChanged, NotFound, RecipeError, Refused, Unavailable
from imageflow.flight.record import Record, masked
from imageflow.guest import keys
from imageflow.host import removal
from imageflow.host.locks import locked
from imageflow.inputs.glance import Pinned
from imageflow.inputs.pins import Kind, Pins
from imageflow.inputs.stages import stages as planned
from imageflow.model import ResourceKind
from imageflow.recipe import MadeFrom
from imageflow.stores import Store
from imageflow.tasks.base import Task
from imageflow.tasks.results import LayerResult, StartResult, VerifiedResult
from imageflow.tasks.workbench import Workbench

if TYPE_CHECKING:
    from imageflow.openstack.image import GlanceImage


class PrepareMachine(Task):
    """Make the work folder and hold the deepest reusable layer."""

    step = "prepare-machine"
    title = "See what can be reused"
    default_provides = "start"

    def execute(self, bench: Workbench) -> StartResult:
        build, compute = bench.build, bench.compute
        compute.check(bench.spec())
        bench.ledger.open(ResourceKind.DIRECTORY, str(bench.work.path))
        if not bench.work.path.exists() and compute.state(bench.name) is not MachineState.ABSENT:
            bench.log("deleting a running machine of this build: only another host has its keys")
            compute.delete(bench.name)
        bench.work.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        bench.ledger.open(ResourceKind.LAYERS, build.id)
        if build.method == "install":
            _take_install_keys(bench.config, planned(build.recipe, build.pins)[0].key, bench.work.ssh())
        stages = bench.stages
        for index in range(len(stages) - 1, -1, -1) if not build.forced else ():
            if compute.layers.hold(stages[index].key, build.id) is not None:
                bench.log(
                    f"starts from the layer of '{stages[index].title}': {index + 1} of {len(stages)} stages are reused"
                )
                return {"stage": index, "key": stages[index].key}
        bench.log("nothing can be reused" if not build.forced else "forced: nothing is reused")
        return {"stage": -1, "key": None}

    def revert(self, bench: Workbench) -> None:
        bench.release_layers()
        removal.remove(ResourceKind.DIRECTORY, str(bench.work.path))
        bench.ledger.close(ResourceKind.DIRECTORY, str(bench.work.path))

    def survives(self, result: StartResult, bench: Workbench) -> bool:
        there = result["key"] is None or bench.compute.layers.find(result["key"]) is not None
        return there and bench.work.path.is_dir()


def _take_install_keys(config: Config, key: str, to: Path) -> None:
    """Use the keys that the installed system accepts, or will accept.

    An answer file authorizes one key, and later builds reuse the system it installed.
    """
    folder = config.install_keys_dir / key
    with locked(config.install_keys_dir / f".{key}.lock"):  # else two builds could each make their own at the same time
        keys.copy(keys.make(folder), to)


class FetchBase(Task):
    """Get the base image, checked against its pin, as the first layer."""

    step = "fetch-base"
    title = "Fetch the base"
    default_provides = "base"

    def execute(self, bench: Workbench, store: Store, start: StartResult) -> LayerResult:
        key = bench.stages[0].key
        if start["stage"] >= 0:
            bench.log("reused")
            return {"key": key}
        build, layers = bench.build, bench.compute.layers
        title = f"{build.image}: the base"
        base = _base(bench, store)
        if base.image is None or layers.adopt(key, base.image, title=title, build_id=build.id) is None:
            path, format = base.file()
            layers.add_base(key, path, format, title=title, build_id=build.id, control=bench.control)
        bench.layer(key)
        return {"key": key}

    def survives(self, result: LayerResult, compute: Compute) -> bool:
        return compute.layers.find(result["key"]) is not None


@dataclass(frozen=True, slots=True)
class _Base:
    """The initial content of a machine's disk."""

    file: Callable[[], tuple[Path, str]]  # downloads it; -> its path and format
    image: str | None = None  # id of the same image in the cloud


def _base(bench: Workbench, store: Store) -> _Base:
    """The pinned base."""
    build = bench.build
    base = bench.image.made_from
    named, digest = Pins(build.pins).made_from(Kind.BASE)
    if base.glance:
        image = in_glance(digest, bench)
        return _Base(lambda: _with_format(from_glance(image, bench, FORMATS)), image.id)
    if base.url:
        return _Base(lambda: _with_format(fetched(base, digest, bench)))
    if base.file:
        file = Path(build.folder) / base.file
        return _Base(lambda: _with_format(as_planned(file, digest, bench)))
    return _stored(named, digest, bench, store)


def _stored(name: str, digest: str, bench: Workbench, store: Store) -> _Base:
    """A version of another imageflow image."""
    ref = store.find(digest)
    if ref is None:
        raise InputChanged(f"{name} {digest[:12]} is not in the store any more")
    disk = next((artifact for artifact in ref.artifacts if artifact.format in FORMATS), None)
    if disk is None:
        raise Refused(
            f"{name} {digest[:12]} has no disk that a machine can start from",
            hint=f"it needs one of {', '.join(FORMATS)} among its outputs",
        )

    def file() -> tuple[Path, str]:
        path = Path(ref.path).parent / disk.name
        if not path.is_file():  # the store is not a local folder
            path = store.copy_out(ref, disk.name, bench.work.path / f"base.{disk.format}", bench.control)
        return path, disk.format

    return _Base(file, ref.image if disk is ref.artifacts[0] else None)


def fetched(source: MadeFrom, digest: str, bench: Workbench) -> Path:
    """Download a URL; raises InputChanged when its content was replaced since the build was planned."""
    assert source.url, source
    try:
        return fetch.fetch(
            source.url,
            digest,
            config=bench.config,
            control=bench.control,
            log=bench.log,
            progress=bench.progress,
        )
    except Corrupt as error:
        if source.checksums is None:
            raise
        raise InputChanged(f"{error.message}: it was replaced since the build was planned") from None


def in_glance(pin: str, bench: Workbench) -> GlanceImage:
    """An image in Glance; raises InputChanged unless it still matches its pin."""
    from imageflow.openstack import Cloud
    from imageflow.openstack.images import Images

    pinned = Pinned.of(pin)
    image = Images(Cloud(bench.config.openstack)).get(pinned.id)
    if image is None or not image.active:
        raise InputChanged(f"image {pinned.id} in Glance is {'gone' if image is None else image.status}")
    if image.hash != pinned.hash:
        raise InputChanged(f"image {pinned.id} in Glance is not what it was when the build was planned")
    return image


def from_glance(image: GlanceImage, bench: Workbench, formats: Sequence[str]) -> Path:
    """Its data as a file, hash checked; raises Refused for another format, InputChanged when it is deleted meanwhile."""
    from imageflow.openstack import Cloud
    from imageflow.openstack.images import Images

    name = f"image {image.id} in Glance"
    if (format := image.says("disk_format")) not in formats:
        raise Refused(f"{name} is of the format {format}", hint=f"it must be {' or '.join(formats)}")
    images = Images(Cloud(bench.config.openstack))

    def download(file: IO[bytes]) -> None:
        bench.log(f"{name}: downloading {image.data.get('size')} bytes")
        try:
            images.download(image, file, bench.control, progress=lambda done: bench.progress(done, "download"))
        except NotFound:
            raise InputChanged(f"{name} was deleted while it was downloaded") from None

    return fetch.fetch_by(
        download,
        image.hash.rpartition(":")[2],
        name=name,
        otherwise=bench.work.path / "from-glance",
        config=bench.config,
        control=bench.control,
        log=bench.log,
    )


def as_planned(path: Path, digest: str, bench: Workbench) -> Path:
    """A local input; raises InputChanged unless it matches its pin."""
    try:
        fetch.local(path, digest, config=bench.config, control=bench.control)
    except Corrupt:
        raise InputChanged(f"{path} is not what it was when the build was planned") from None
    except RecipeError as error:
        raise InputChanged(error.message) from None
    return path


def _with_format(path: Path) -> tuple[Path, str]:
    """The path with its format; the compute driver refuses anything but these."""
    with path.open("rb") as file:
        return path, "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


class DeleteMachine(Task):
    """Delete the machine after its image was made and verified."""

    step = "delete-machine"
    title = "Delete the machine"

    def execute(self, bench: Workbench, verified: VerifiedResult) -> None:
        most = int(bench.config.builds.max_console * 2**20)
        record = Record(bench.config.records_dir / bench.build.id, bench.name, most=most)
        record.console(masked(bench.compute.console(bench.name), bench.log.clean), 0)
        for remove in (bench.delete, bench.release_layers):
            try:
                remove()
            except (Refused, Unavailable) as error:  # the image is complete: no reason to wait for its machine
                bench.log(f"{error.message}: it is left for the janitor")
