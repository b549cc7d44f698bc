"""/v1/requests: ask for an image by what should be in it, under a name of one's own; /v1/catalog: what may be asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi import Path as InPath
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import JSONResponse, Response

from imageflow.access import Caller
from imageflow.api.access import Access
from imageflow.api.problems import RequestProblem
from imageflow.api.responses import ID_HEADER, refusals
from imageflow.api.storing import in_thread
from imageflow.api.v1.asking import Page, Query, known_queries, next_page, tagged
from imageflow.api.v1.request_records import (
    CatalogList,
    PlanDocument,
    RequestBody,
    RequestDocument,
    RequestList,
    RequestSummary,
    entry_record,
)
from imageflow.service import Service
from imageflow.wants.requests import ImageRequest, RequestState

LOG = logging.getLogger(__name__)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
RequestName = Annotated[str, InPath(pattern=NAME, description="The client's own name for it.")]
_LOOKS = (0.25, 3.0)  # seconds between two looks of who waits: at first, and at most
_WAITING = 200  # requests that wait at a time; further ones are answered at once
_READ = refusals(400, 401, 403, 404, 429, 500, 503)
_TAG = {"ETag": {"description": "Of this state.", "schema": {"type": "string"}}}
Wait = Annotated[
    float, Field(ge=0.0, le=60.0, description="Answer when it is no longer being built, or after so many seconds.")
]


class RequestsPage(Page):
    """What requests are listed by."""

    marker: Annotated[str | None, Field(pattern=NAME, description="The last request of the page before.")] = None


class WaitQuery(Query):
    """How long the answer may take."""

    wait: Wait = 0.0


class PutQuery(WaitQuery):
    """How a request is made."""

    dry_run: Annotated[bool, Field(description="Change nothing, and tell what would be done.")] = False


def requests_router(service: Service, access: Access) -> APIRouter:
    """The operations on requests."""
    router = APIRouter(prefix="/v1/requests", tags=["requests"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)
    waiting = asyncio.Semaphore(_WAITING)

    def require(caller: Caller, rule: str) -> str:
        """-> the caller's project; raises RequestProblem 403."""
        require_project(service, access, caller, rule)
        return caller.project

    async def patient(found: RequestDocument, seconds: float) -> RequestDocument:
        """What became of it within this time."""
        end, pause = time.monotonic() + seconds, _LOOKS[0]
        if waiting.locked():
            return found
        async with waiting:
            while found.state == RequestState.BUILDING and (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(pause, left))
                pause = min(_LOOKS[1], pause * 1.5)
                found = await in_thread(_shown, service, found.project, found.name)
        return found

    @router.get(
        "",
        operation_id="listRequests",
        summary="List the requests of a project, by name",
        response_model=RequestList,
        responses=refusals(400, 401, 403, 429, 500, 503) | {200: {"headers": ID_HEADER}},
    )
    async def list_requests(query: Annotated[RequestsPage, InQuery()], caller: Caller = asking) -> RequestList:
        return await in_thread(_listed, service, require(caller, "requests:list"), query)

    @router.get(
        "/{name}",
        operation_id="getRequest",
        summary="Show a request, and what has become of it",
        response_model=RequestDocument,
        responses=_READ
        | {200: {"headers": ID_HEADER | _TAG}, 304: {"description": "As you have it.", "headers": ID_HEADER | _TAG}},
    )
    async def get_request(
        name: RequestName,
        query: Annotated[WaitQuery, InQuery()],
        caller: Caller = asking,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        found = await in_thread(_shown, service, require(caller, "requests:get"), name)
        return tagged(await patient(found, query.wait), if_none_match)

    @router.put(
        "/{name}",
        operation_id="putRequest",
        summary="Ask for an image, and hold it",
        description="What is built already, or being built, is taken: `build` says what else happens. The same request again "
        "is the same request. While it is there, its image is not removed.",
        response_model=RequestDocument | PlanDocument,
        responses=refusals(400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503)
        | {
            200: {"headers": ID_HEADER | _TAG},
            202: {"model": RequestDocument, "description": "It is being built.", "headers": ID_HEADER | _TAG},
        },
    )
    async def put_request(
        name: RequestName, body: RequestBody, query: Annotated[PutQuery, InQuery()], caller: Caller = asking
    ) -> Response:
        request = body.request(require(caller, "requests:put"), name)
        if query.dry_run:
            return JSONResponse((await in_thread(_planned, service, request, body)).model_dump(mode="json"))
        found = await patient(await in_thread(_put, service, request, body, caller), query.wait)
        answer = tagged(found, None)
        answer.status_code = 202 if found.state == RequestState.BUILDING else 200
        return answer

    @router.delete(
        "/{name}",
        status_code=204,
        operation_id="deleteRequest",
        summary="Take a request back; its image and its build stay",
        responses=_READ | {204: {"headers": ID_HEADER}},
    )
    async def delete_request(name: RequestName, caller: Caller = asking) -> Response:
        await in_thread(service.requests.delete, require(caller, "requests:delete"), name)
        return Response(status_code=204)

    return router


def catalog_router(service: Service, access: Access) -> APIRouter:
    """What may be asked for."""
    router = APIRouter(prefix="/v1/catalog", tags=["requests"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)

    @router.get(
        "",
        operation_id="listCatalog",
        summary="List what may be asked for by its content",
        response_model=CatalogList,
        responses=refusals(400, 401, 403, 429, 500, 503) | {200: {"headers": ID_HEADER}},
    )
    async def list_catalog(caller: Caller = asking) -> CatalogList:
        require_project(service, access, caller, "catalog:list")
        entries, wrong = await in_thread(service.catalog.entries)
        for error in wrong:  # the operator's, who reads the log
            LOG.warning("%s", error)
        return CatalogList(catalog=[entry_record(entry) for entry in entries])

    return router


def require_project(service: Service, access: Access, caller: Caller, rule: str) -> None:
    """Raise RequestProblem 403 unless the caller may do this, and their project may request images."""
    access.require(caller, rule)
    allowed = {service.config.api.project, *service.config.catalog.projects}
    if caller.project not in allowed and "*" not in allowed:
        raise RequestProblem(
            403,
            "access.project",
            "this project may not request images here",
            hint="the operator names it in [catalog] projects",
        )


def _put(service: Service, request: ImageRequest, body: RequestBody, caller: Caller) -> RequestDocument:
    cause = f"{caller.user} requested it as {request.name}"
    return RequestDocument.whole(service.requests.put(request, body.wanted, cause))


def _planned(service: Service, request: ImageRequest, body: RequestBody) -> PlanDocument:
    return PlanDocument.of(*service.requests.plan(request, body.wanted))


def _shown(service: Service, project: str, name: str) -> RequestDocument:
    return RequestDocument.whole(service.requests.get(project, name))


def _listed(service: Service, project: str, query: RequestsPage) -> RequestList:
    found = service.requests.select(project, query.limit + 1, query.marker)
    page, more = found[: query.limit], len(found) > query.limit
    return RequestList(
        requests=[RequestSummary.of(one) for one in page],
        requests_links=next_page("/v1/requests", more, query, page[-1].request.name if page else ""),
    )
