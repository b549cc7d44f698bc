"""What every operation of the API has in common: strict queries, pages, links, entity tags, times."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from imageflow.api.problems import RequestProblem, malformed


class Query(BaseModel):
    """The query parameters of an operation; any other one is refused."""

    model_config = ConfigDict(extra="forbid")


class Page(Query):
    """What every list understands."""

    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many.")] = 100


class Link(BaseModel):
    """Where something related is."""

    rel: str = Field(examples=["next"])
    href: str


def known_queries(request: Request) -> None:
    """Refuse parameters that the operation has not: `?stat=paused` would list everything."""
    known: set[str] = set()
    for field in request.scope["route"].dependant.query_params:
        model = field.field_info.annotation
        of_model = isinstance(model, type) and issubclass(model, BaseModel)
        known |= set(model.model_fields) if of_model else {field.alias}
    if unknown := sorted(set(request.query_params) - known):
        names = ", ".join(repr(name[:40]) for name in unknown[:5])
        has = ", ".join(sorted(known)) or "none"
        raise malformed(f"there is no parameter {names}", hint=f"parameters of this operation: {has}")


def next_page(path: str, more: bool, query: Page, marker: str) -> list[Link]:
    """The link to the next page, if there is one."""
    if not more:
        return []
    values = {name: value for name, value in query.model_dump(exclude_none=True).items() if value != []}
    return [Link(rel="next", href=f"{path}?{urlencode(values | {'marker': marker}, doseq=True)}")]


def moment(seconds: float | None) -> str | None:
    """A time in UTC to the millisecond, as RFC 3339 wants it."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


class Document(BaseModel):
    """What has an entity tag."""

    def lasting(self) -> dict[str, Any]:
        """What its tag is made of: nothing that changes by itself while time passes."""
        return self.model_dump(mode="json")


def tagged(one: Document, if_none_match: str | None) -> Response:
    """The answer with its entity tag; 304 without a body for who has that already."""
    body = one.model_dump(mode="json")
    tag = _tag(one)
    if if_none_match is not None and (if_none_match.strip() == "*" or tag in _tags(if_none_match)):
        return Response(status_code=304, headers={"etag": tag})
    return JSONResponse(body, headers={"etag": tag})


def require_match(one: Document, if_match: str | None) -> None:
    """Raise RequestProblem 412 for who wants to change another state than the present one."""
    if if_match is None or if_match.strip() == "*":
        return
    if _tag(one) not in _tags(if_match):
        raise RequestProblem(412, "request.precondition", "it has changed since you read it", hint="read it again")


def _tag(one: Document) -> str:
    return f'"{hashlib.sha256(json.dumps(one.lasting(), sort_keys=True).encode()).hexdigest()[:32]}"'


def _tags(header: str) -> Sequence[str]:
    return [part.strip().removeprefix("W/") for part in header.split(",")]
