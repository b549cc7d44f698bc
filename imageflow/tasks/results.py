"""The results that steps pass to later steps: small JSON, stored under the name that a step provides.

A build that another worker goes on with has them from there, maybe from an earlier imageflow: a key is
never renamed, and one that is new has to be `NotRequired` (which annotations as text would hide).
"""

from pathlib import Path
from typing import NotRequired, TypedDict

from imageflow.compute import Machine
from imageflow.model import Artifact

# -- both kinds of builds ------------------------------------------------------------------------


class ArtifactResult(TypedDict):
    """One file of an image version; see model.Artifact."""

    name: str
    format: str
    size: int
    digest: str
    virtual_size: int | None


class FileResult(TypedDict):
    """A finished file of the version; a list of these is `outputs`, the primary one first."""

    path: str  # absolute, on the host that made it
    artifact: ArtifactResult


class DescriptionResult(TypedDict):
    """`description`: what is in the image, and the manifest that says so."""

    packages: int | None  # how many; None: not known
    content: str | None  # content digest; None: not known
    properties: dict[str, str]  # the recipe's properties for the version in the store
    path: str  # of the manifest
    artifact: ArtifactResult  # the manifest itself


class PublicationResult(TypedDict):
    """`publication`: the version in the store."""

    image: str  # the name it is published under
    store: str  # name of the store driver
    digest: str  # of the primary artifact
    path: str  # location of the primary artifact, as reported by the store
    artifacts: list[ArtifactResult]
    packages: int | None
    content: str | None
    properties: dict[str, str]


# -- images by diskimage-builder -----------------------------------------------------------------


class WorkspaceResult(TypedDict):
    """`workspace`: the build's work folder."""

    path: str  # absolute
    memory: bool  # whether it is a tmpfs


class InputsResult(TypedDict):
    """`inputs`: what was generated from the recipe for diskimage-builder."""

    configure: bool  # whether there is an element for the recipe's `configure`


class DiskResult(TypedDict):
    """`disk`: the files that diskimage-builder made."""

    folder: str  # absolute
    name: str  # name of its files, without suffix
    files: dict[str, int]  # name -> bytes
    environment: dict[str, str]  # the DIB_* variables of the run, without secrets


# -- images that are made on a machine -----------------------------------------------------------


class StartResult(TypedDict):
    """`start`: what can be reused."""

    stage: int  # index of the deepest stage that has a layer; -1: none
    key: str | None  # that layer's


class LayerResult(TypedDict):
    """`base`: the layer that the first machine starts from."""

    key: str


class MediaResult(TypedDict):
    """`media`: the installer's ISO as its vendor made it; None when its result is reused."""

    path: str


class RemasteredResult(TypedDict):
    """`remastered`: the ISO that installs by itself; None when its result is reused."""

    path: str
    marker: str  # line on the machine's console that reports a finished installation


class MachineResult(TypedDict):
    """`installer`: a machine as it was started, see compute.Machine; None when its result is reused."""

    name: str
    state: str
    process: str
    accelerator: str


class BootedResult(MachineResult):
    """`machine`: one that was booted from a layer."""

    stage: int  # index of the stage on its disk at that time
    key: str  # of that layer


class ReachedResult(TypedDict):
    """`reached`: the machine can be logged into."""

    system: str  # what the guest calls itself


class ConfiguredResult(TypedDict):
    """`configured_N`: an entry of `configure` is done."""

    key: str  # of the stage's layer, whether it exists or not
    reused: bool


class SealedResult(TypedDict):
    """`sealed`: what was found in the machine before it was sealed."""

    packages: list[dict[str, str]] | None  # [{"name", "version", "arch"}]; None: not known
    system: str  # what the guest calls itself
    machine_id: str  # '' where it has none
    content: str | None  # content digest; None: not known
    closed: NotRequired[bool]  # the image itself does not let the build in


class StoppedResult(TypedDict):
    """`stopped`: the machine is powered off and its disk is complete."""

    machine: str  # its name


class VerifiedResult(TypedDict):
    """`verified`: a copy of the image was booted and checked."""

    checks: int  # number of the recipe's checks that passed


# -- from records --------------------------------------------------------------------------------


def artifact_result(artifact: Artifact) -> ArtifactResult:
    """An artifact as it is stored."""
    return ArtifactResult(
        name=artifact.name,
        format=artifact.format,
        size=artifact.size,
        digest=artifact.digest,
        virtual_size=artifact.virtual_size,
    )


def file_result(path: Path, artifact: Artifact) -> FileResult:
    """A finished file as it is stored."""
    return FileResult(path=str(path), artifact=artifact_result(artifact))


def machine_result(machine: Machine) -> MachineResult:
    """A machine as it is stored."""
    return MachineResult(
        name=machine.name, state=machine.state.value, process=machine.process, accelerator=machine.accelerator
    )
