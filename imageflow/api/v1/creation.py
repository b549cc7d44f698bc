"""POST /v1/builds: ask for an image of a registered recipe; what is built already is the answer."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from imageflow.access import Caller
from imageflow.api.access import Access
from imageflow.api.problems import RequestProblem, busy
from imageflow.api.responses import ID_HEADER, refusals
from imageflow.api.storing import ANSWER, in_thread
from imageflow.api.v1.asking import known_queries
from imageflow.api.v1.records import BuildSummary
from imageflow.errors import Conflict, NoSpace, RecipeError, Refused, SecretMissing
from imageflow.model import Submission
from imageflow.persistence import answers
from imageflow.persistence.answers import Answered
from imageflow.service import Service

_AT_ONCE = 8  # requests whose inputs are pinned at a time: each may wait for repositories and mirrors of others
_HEADERS = {
    "Location": {"description": "Of the build.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {"description": "Whether this answer was given before.", "schema": {"type": "string"}},
}


class BuildRequest(BaseModel):
    """What to build."""

    model_config = ConfigDict(extra="forbid", strict=True)  # else `"force": "no"` would be taken for true

    image: Annotated[str, Field(min_length=1, max_length=255, description="An image of a registered recipe.")]
    force: Annotated[bool, Field(description="Build it even if nothing that goes into it has changed.")] = False


class BuildAnswer(BaseModel):
    """The build that stands for what was asked."""

    verdict: str = Field(description="created: a new build; joined: it is being built; reused: it is built already.")
    reason: str
    build: BuildSummary


def creation_router(service: Service, access: Access) -> APIRouter:
    """The operation."""
    router = APIRouter(prefix="/v1/builds", tags=["builds"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)
    places = threading.BoundedSemaphore(_AT_ONCE)

    def ask(wanted: BuildRequest, caller: Caller, key: str | None) -> tuple[Answered, bool]:
        request = _fingerprint(wanted)
        if key is not None and (before := _before(service, caller, key, request)) is not None:
            return before, True
        if not places.acquire(timeout=ANSWER):  # a request that was answered 503 goes on in its thread, and counts
            raise busy(f"{_AT_ONCE} requests are pinning their inputs already")
        try:
            return begin(wanted, caller, key, request)
        finally:
            places.release()

    def begin(wanted: BuildRequest, caller: Caller, key: str | None, request: str) -> tuple[Answered, bool]:
        given: list[Answered] = []

        def answer(conn: sa.Connection, submission: Submission) -> None:
            given[:] = [_answered(request, submission)]
            if key is not None:
                answers.keep(conn, caller.project, key, given[0])

        try:
            service.registered_images.ask(
                wanted.image, force=wanted.force, cause=f"{caller.user} asked for it over the API", answer=answer
            )
        except sa.exc.IntegrityError:  # the same request, at the same time
            if key is not None and (before := _before(service, caller, key, request)) is not None:
                return before, True
            raise
        except NoSpace:
            raise
        except (RecipeError, SecretMissing, Refused) as error:  # the request is good, what it names can't be built
            raise Conflict(f"{wanted.image} can't be built as it stands: {error.message}", hint=error.hint) from None
        return given[0], False

    @router.post(
        "",
        status_code=202,
        operation_id="createBuild",
        summary="Ask for an image of a registered recipe",
        description="What is built already is not built again: `verdict` says so. With an `Idempotency-Key` the same request "
        "gets the same answer for a day, also when the first answer got lost.",
        response_model=BuildAnswer,
        responses=refusals(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
        | {202: {"headers": ID_HEADER | _HEADERS}},
    )
    async def create_build(
        wanted: BuildRequest,
        caller: Caller = asking,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, pattern="^[!-~]+$")] = None,
    ) -> Response:
        access.require(caller, "builds:create", service.config.api.project)
        answered, replayed = await in_thread(ask, wanted, caller, idempotency_key)
        headers = {"location": answered.location, "idempotent-replayed": str(replayed).lower()}
        return Response(answered.body, 202, headers, "application/json")

    return router


def _fingerprint(wanted: BuildRequest) -> str:
    return hashlib.sha256(json.dumps(["builds", wanted.model_dump()], sort_keys=True).encode()).hexdigest()


def _before(service: Service, caller: Caller, key: str, request: str) -> Answered | None:
    with service.database.read() as conn:
        found = answers.find(conn, caller.project, key)
    if found is not None and found.request != request:
        raise RequestProblem(
            422,
            "request.idempotency-key",
            "this Idempotency-Key came with another request before",
            hint="use a new key for each thing that you want",
        )
    return found


def _answered(request: str, submission: Submission) -> Answered:
    build = submission.build
    document = BuildAnswer(
        verdict=str(submission.verdict), reason=submission.reason, build=BuildSummary.of(build, None)
    )
    return Answered(request, f"/v1/builds/{build.id}", document.model_dump_json())
