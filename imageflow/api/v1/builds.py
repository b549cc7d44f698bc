"""/v1/builds: list them, look into one, read its log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi import Path as InPath
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import Response

from imageflow.access import Caller
from imageflow.api.access import Access
from imageflow.api.problems import RequestProblem, malformed
from imageflow.api.responses import ID_HEADER, refusals
from imageflow.api.storing import in_thread
from imageflow.api.v1 import ranges
from imageflow.api.v1.asking import Page, known_queries, next_page, tagged
from imageflow.api.v1.records import BuildDocument, BuildList, BuildSummary, StepList, step_record
from imageflow.errors import NotFound
from imageflow.model import Build, BuildState
from imageflow.service import Service

BUILD = r"^[0-9a-f]{12}$"
BuildId = Annotated[str, InPath(pattern=BUILD, description="Of the build: 12 hexadecimal digits.")]
_READ = refusals(400, 401, 403, 404, 429, 500, 503)
_TAG = {"ETag": {"description": "Of this state.", "schema": {"type": "string"}}}


class BuildQuery(Page):
    """What builds can be chosen by."""

    image: Annotated[str | None, Field(max_length=255, description="Only builds of this image.")] = None
    state: Annotated[
        list[BuildState],
        Field(default_factory=list, max_length=9, description="Only these states; may be repeated."),
    ]
    marker: Annotated[str | None, Field(pattern=BUILD, description="The last build of the page before.")] = None


def builds_router(service: Service, access: Access) -> APIRouter:
    """The operations that read builds."""
    router = APIRouter(prefix="/v1/builds", tags=["builds"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)

    @router.get(
        "",
        operation_id="listBuilds",
        summary="List builds, the newest first",
        response_model=BuildList,
        responses=refusals(400, 401, 403, 429, 500, 503) | {200: {"headers": ID_HEADER}},
    )
    async def list_builds(query: Annotated[BuildQuery, InQuery()], caller: Caller = asking) -> BuildList:
        access.require(caller, "builds:list", service.config.api.project)
        return await in_thread(_listed, service, query)

    @router.get(
        "/{build_id}",
        operation_id="getBuild",
        summary="Show a build",
        response_model=BuildDocument,
        responses=_READ
        | {200: {"headers": ID_HEADER | _TAG}, 304: {"description": "As you have it.", "headers": ID_HEADER | _TAG}},
    )
    async def get_build(
        build_id: BuildId, caller: Caller = asking, if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        access.require(caller, "builds:get", service.config.api.project)
        return tagged(await in_thread(shown, service, build_id), if_none_match)

    @router.get(
        "/{build_id}/steps",
        operation_id="listSteps",
        summary="List every attempt of every step of a build, in the order in which they ran",
        response_model=StepList,
        responses=_READ | {200: {"headers": ID_HEADER}},
    )
    async def list_steps(build_id: BuildId, caller: Caller = asking) -> StepList:
        access.require(caller, "builds:get", service.config.api.project)
        found = await in_thread(service.steps, build_id)
        return StepList(steps=[step_record(step) for step in found])

    @router.get(
        "/{build_id}/log",
        operation_id="getLog",
        summary="Read the log of a build",
        description="The log may be growing: ask for `Range: bytes=N-` with the number of bytes that you have; 416 means "
        "that there is no more yet. It is on the machine that runs the build.",
        response_class=Response,
        responses=refusals(400, 401, 403, 404, 409, 429, 500, 503) | ranges.DECLARED,
    )
    async def get_log(
        request: Request,
        build_id: BuildId,
        caller: Caller = asking,
        wanted: Annotated[str | None, Header(alias="Range", max_length=64)] = None,
    ) -> Response:
        access.require(caller, "builds:get", service.config.api.project)
        build = await in_thread(service.build, build_id)
        return ranges.answer(_log_of(service, build), wanted)

    return router


def shown(service: Service, build_id: str) -> BuildDocument:
    """A build by itself; raises NotFound."""
    build = service.build(build_id)
    remaining = service.estimate(build_id).remaining if build.state is BuildState.RUNNING else None
    return BuildDocument.whole(build, service.silent([build]).get(build.id), service.waits(build_id), remaining)


def _listed(service: Service, query: BuildQuery) -> BuildList:
    before = None
    if query.marker is not None:
        try:
            before = service.build(query.marker).seq
        except NotFound:
            raise malformed(f"there is no build {query.marker} to go on from", hint="begin again") from None
    found = service.builds(image=query.image, states=query.state, limit=query.limit + 1, before=before)
    page, more = found[: query.limit], len(found) > query.limit
    silent = service.silent(page)
    return BuildList(
        builds=[BuildSummary.of(build, silent.get(build.id)) for build in page],
        builds_links=next_page("/v1/builds", more, query, page[-1].id if page else ""),
    )


def _log_of(service: Service, build: Build) -> Path:
    """The file; raises RequestProblem when another machine has it."""
    if build.host is not None and build.host != service.config.host:
        raise RequestProblem(
            409, "build.log-elsewhere", f"the log of build {build.id} is on {build.host}", hint=f"ask {build.host}"
        )
    return service.log_path(build.id)
