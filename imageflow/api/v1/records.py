"""The documents of the API: builds, steps and image versions as JSON. Fields are only ever added."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field

from imageflow.api.v1.asking import Document, Link, moment
from imageflow.model import Artifact, Build, Step, Version


class BuildSummary(Document):
    """A build in a list."""

    id: str
    image: str
    method: str = Field(examples=["dib", "boot", "install"])
    state: str = Field(
        description="queued, running, paused, reverting, succeeded, failed, aborted, cancelled or superseded."
    )
    reason: str = Field(description="Why it was built.")
    step: str | None = Field(description="The running or failed step.")
    error: str | None = Field(description="What went wrong.")
    hint: str | None = Field(description="What to do about it.")
    digest: str | None = Field(description="SHA-256 of the image version that it made.")
    created: str | None
    started: str | None
    ended: str | None
    host: str | None = Field(description="Where it runs, or ran last.")
    silent: str | None = Field(description="Who was to work on it and gives no sign of life, and since when.")
    links: list[Link]

    @classmethod
    def of(cls, build: Build, silent: str | None, **more: Any) -> Self:
        """The document of a build."""
        return cls(
            id=build.id,
            image=build.image,
            method=build.method,
            state=str(build.state),
            reason=build.reason,
            step=build.step,
            error=build.error,
            hint=build.hint,
            digest=build.digest,
            created=moment(build.created),
            started=moment(build.started),
            ended=moment(build.ended),
            host=build.host,
            silent=silent,
            links=_links(build),
            **more,
        )


class BuildDocument(BuildSummary):
    """A build by itself."""

    key: str = Field(description="SHA-256 over its recipe and pinned inputs.")
    pins: dict[str, Any] = Field(description="What its inputs were pinned to.")
    forced: bool
    wish: str | None = Field(description="What it was asked to do: abort, cancel or revert.")
    paused: str | None
    waits: str | None = Field(description="What it waits for.")
    remaining: float | None = Field(description="Estimated seconds until it ends, while it runs.")

    def lasting(self) -> dict[str, Any]:
        """Without how long it still takes, and for how long its conductor has been silent."""
        said = super().lasting() | {"remaining": None}
        return said if self.silent is None else said | {"silent": True, "waits": None}

    @classmethod
    def whole(cls, build: Build, silent: str | None, waits: str | None, remaining: float | None) -> Self:
        """The document of a build that was read whole."""
        return cls.of(
            build,
            silent,
            key=build.key,
            pins=dict(build.pins),
            forced=build.forced,
            wish=None if build.wish is None else str(build.wish),
            paused=moment(build.paused),
            waits=waits,
            remaining=None if remaining is None else round(remaining, 1),
        )


class BuildList(BaseModel):
    """A page of builds."""

    builds: list[BuildSummary]
    builds_links: list[Link] = Field(description="`next`, where there is more.")


class StepRecord(BaseModel):
    """One attempt of one step."""

    name: str
    attempt: int
    state: str
    progress: float = Field(description="0 to 1.")
    message: str | None = Field(description="Its present phase.")
    started: str | None
    ended: str | None
    error: str | None
    conductor: str | None


class StepList(BaseModel):
    """The steps of a build."""

    steps: list[StepRecord]


class ArtifactRecord(BaseModel):
    """One file of an image version."""

    name: str
    format: str
    size: int = Field(description="Bytes.")
    digest: str = Field(description="SHA-256.")
    virtual_size: int | None = Field(description="Bytes, of disks.")


class ImageVersion(Document):
    """One version of an image."""

    image: str
    digest: str = Field(description="SHA-256 of its primary file; names the version.")
    state: str = Field(description="stored, corrupt or missing.")
    why: str | None = Field(description="The reason for its state.")
    build_id: str
    key: str = Field(description="SHA-256 over the recipe and pinned inputs it was made of.")
    content: str | None = Field(description="SHA-256 over packages and files.")
    packages: int | None = Field(description="How many are installed in it.")
    created: str | None
    store: str
    files: list[ArtifactRecord]
    links: list[Link]

    @classmethod
    def of(cls, version: Version) -> Self:
        """The document of a version."""
        return cls(
            image=version.image,
            digest=version.digest,
            state=str(version.state),
            why=version.why,
            build_id=version.build_id,
            key=version.key,
            content=version.content,
            packages=version.packages,
            created=moment(version.created),
            store=version.store,
            files=[_file(artifact) for artifact in version.artifacts],
            links=[
                Link(rel="self", href=f"/v1/images/{version.image}/versions/{version.digest}"),
                Link(rel="build", href=f"/v1/builds/{version.build_id}"),
            ],
        )


class ImageList(BaseModel):
    """The newest version of each image."""

    images: list[ImageVersion]


class VersionList(BaseModel):
    """The versions of one image, the newest first."""

    versions: list[ImageVersion]


def step_record(step: Step) -> StepRecord:
    """The document of a step."""
    return StepRecord(
        name=step.name,
        attempt=step.attempt,
        state=str(step.state),
        progress=round(step.progress, 4),
        message=step.message,
        started=moment(step.started),
        ended=moment(step.ended),
        error=step.error,
        conductor=step.conductor,
    )


def _file(artifact: Artifact) -> ArtifactRecord:
    return ArtifactRecord(
        name=artifact.name,
        format=artifact.format,
        size=artifact.size,
        digest=artifact.digest,
        virtual_size=artifact.virtual_size,
    )


def _links(build: Build) -> list[Link]:
    here = f"/v1/builds/{build.id}"
    found = [Link(rel="self", href=here), Link(rel="steps", href=f"{here}/steps"), Link(rel="log", href=f"{here}/log")]
    if build.digest is not None:
        found.append(Link(rel="image", href=f"/v1/images/{build.image}/versions/{build.digest}"))
    return found
