"""/v1/builds/{id}/resume, abort and cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header

from imageflow.access import Caller
from imageflow.api.access import Access
from imageflow.api.responses import ID_HEADER, refusals
from imageflow.api.storing import in_thread
from imageflow.api.v1.asking import known_queries, require_match
from imageflow.api.v1.builds import BuildId, shown
from imageflow.api.v1.records import BuildDocument
from imageflow.model import Build, BuildState
from imageflow.service import Service

_UNDER_WAY = frozenset({BuildState.QUEUED, BuildState.RUNNING})
_GIVEN_UP = frozenset({BuildState.REVERTING, BuildState.ABORTED, BuildState.CANCELLED})


def steering_router(service: Service, access: Access) -> APIRouter:
    """The operations that change what a build does."""
    router = APIRouter(prefix="/v1/builds", tags=["builds"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)

    def action(name: str, summary: str, change: Callable[[str], Build], settled: frozenset[BuildState]) -> None:
        def act(build_id: str, if_match: str | None) -> BuildDocument:
            if if_match is not None:
                require_match(shown(service, build_id), if_match)
            if service.build(build_id).state not in settled:  # who asks twice is answered twice
                change(build_id)
            return shown(service, build_id)

        @router.post(
            f"/{{build_id}}/{name}",
            status_code=202,
            operation_id=f"{name}Build",
            summary=summary,
            response_model=BuildDocument,
            responses=refusals(400, 401, 403, 404, 408, 409, 412, 413, 429, 500, 503) | {202: {"headers": ID_HEADER}},
        )
        async def post(
            build_id: BuildId, caller: Caller = asking, if_match: Annotated[str | None, Header()] = None
        ) -> BuildDocument:
            access.require(caller, f"builds:{name}", service.config.api.project)
            return await in_thread(act, build_id, if_match)

    action("resume", "Resume a paused build at its failed step", service.resume, _UNDER_WAY)
    action("abort", "Give a build up: everything it made is removed", service.abort, _GIVEN_UP)
    action("cancel", "Stop a build, its running step, too: everything it made is removed", service.cancel, _GIVEN_UP)
    return router
