"""The documents of requests and of the catalog."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imageflow.api.v1.asking import Document, Link, moment
from imageflow.builds.wanted import Plan, PlanVerdict
from imageflow.recipe.fields import NAME, wrong
from imageflow.wants.entry import Entry
from imageflow.wants.requests import Asked, BuildPolicy, ImageRequest
from imageflow.wants.want import Want

_Word = Annotated[str, Field(max_length=255)]


class RequestBody(BaseModel):
    """What is asked for: one of `wanted` and `image`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["wanted"]}, {"required": ["image"]}]}
    )

    wanted: Annotated[Want | None, Field(description="By what should be in it.")] = None
    image: Annotated[
        str | None, Field(pattern=f"^{NAME}$", description="By its name: an image of a registered recipe.")
    ] = None
    build: Annotated[
        BuildPolicy, Field(description="if-missing: build it if there is none of these inputs; never: take the newest.")
    ] = BuildPolicy.IF_MISSING
    user: Annotated[
        dict[_Word, _Word], Field(max_length=16, description="Who uses it, in words of the client; shown in lists.")
    ] = {}

    @model_validator(mode="after")
    def _one(self) -> RequestBody:
        if (self.wanted is None) == (self.image is None):
            raise wrong("needs one of 'wanted' and 'image'", "wanted: {os: …, packages: […]}, or image: NAME")
        return self

    def request(self, project: str, name: str) -> ImageRequest:
        """The request, before it is known which image a want is."""
        return ImageRequest(project, name, self.image or "", self.build, user=self.user)


class RequestSummary(Document):
    """A request in a list, and what has become of it."""

    name: str
    project: str
    state: str = Field(description="ready, building, paused, failed or missing.")
    reason: str = Field(description="Why it is in this state.")
    hint: str | None = Field(description="What to do about it.")
    image: str = Field(description="The name of the image; equal wants have the same.")
    build: str = Field(description="if-missing or never.")
    user: dict[str, str]
    image_id: str | None = Field(description="Its id in Glance, where images are stored there.")
    digest: str | None = Field(description="SHA-256 of its primary file; names the version.")
    path: str | None = Field(description="Where the store has it.")
    build_id: str | None
    created: str | None
    changed: str | None
    links: list[Link]

    @classmethod
    def of(cls, asked: Asked, **more: Any) -> Self:
        """The document of a request."""
        request, version = asked.request, asked.version
        there = version if version is not None and asked.state == "ready" else None
        links = [Link(rel="self", href=f"/v1/requests/{request.name}")]
        if request.build_id is not None:
            links.append(Link(rel="build", href=f"/v1/builds/{request.build_id}"))
        if there is not None:
            links.append(Link(rel="image", href=f"/v1/images/{there.image}/versions/{there.digest}"))
        return cls(
            name=request.name,
            project=request.project,
            state=str(asked.state),
            reason=asked.reason,
            hint=asked.hint or None,
            image=request.image,
            build=str(request.policy),
            user=dict(request.user),
            image_id=there.path if there is not None and there.store == "glance" else None,
            digest=None if there is None else there.digest,
            path=None if there is None else there.path,
            build_id=request.build_id,
            created=moment(request.created),
            changed=moment(request.changed),
            links=links,
            **more,
        )


class RequestDocument(RequestSummary):
    """A request by itself."""

    wanted: dict[str, Any] | None = Field(description="What should be in it, in its canonical form.")
    progress: float | None = Field(description="0 to 1, while it is built.")
    remaining: float | None = Field(description="Estimated seconds until it is built.")

    def lasting(self) -> dict[str, Any]:
        """Without how far its build is."""
        return super().lasting() | {"progress": None, "remaining": None}

    @classmethod
    def whole(cls, asked: Asked) -> Self:
        """The document of a request that was read whole."""
        return cls.of(
            asked,
            wanted=None if asked.request.wanted is None else dict(asked.request.wanted),
            progress=asked.progress and round(asked.progress, 4),
            remaining=asked.remaining and round(asked.remaining, 1),
        )


class RequestList(BaseModel):
    """A page of requests."""

    requests: list[RequestSummary]
    requests_links: list[Link] = Field(description="`next`, where there is more.")


class PlanDocument(BaseModel):
    """What a request would do."""

    verdict: str = Field(
        description="reuse: a version is there; join: it is being built; build; missing: nothing is there, nothing is built."
    )
    reason: str
    image: str
    build_id: str | None = Field(description="Of the build that is reused or joined.")
    seconds: float | None = Field(description="How long a build takes, from earlier ones.")
    steps: list[str] = Field(description="Of the build that would be made.")

    @classmethod
    def of(cls, request: ImageRequest, plan: Plan | None) -> Self:
        """`plan`: None when nothing may be built."""
        if plan is None:
            there = request.build_id is not None
            return cls(
                verdict=str(PlanVerdict.REUSE) if there else "missing",
                reason="the newest version is taken" if there else "there is none, and none is built",
                image=request.image,
                build_id=request.build_id,
                seconds=None,
                steps=[],
            )
        return cls(
            verdict=str(plan.verdict),
            reason=plan.reason,
            image=plan.image,
            build_id=None if plan.build is None else plan.build.id,
            seconds=plan.seconds and round(plan.seconds, 1),
            steps=[title for _name, title in plan.steps] if plan.verdict is PlanVerdict.BUILD else [],
        )


class CatalogEntry(BaseModel):
    """What one `os` may be asked with."""

    os: str
    description: str
    method: str
    takes: list[str] = Field(description="Of packages, pip_packages, custom_files.")
    recipes: dict[str, list[str]] = Field(description="config_system -> recipes.")


class CatalogList(BaseModel):
    """The catalog, by name."""

    catalog: list[CatalogEntry]


def entry_record(entry: Entry) -> CatalogEntry:
    """The document of an entry."""
    return CatalogEntry(
        os=entry.os,
        description=entry.description,
        method=entry.method,
        takes=list(entry.takes),
        recipes=entry.names,
    )
