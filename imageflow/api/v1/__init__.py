"""The image building API, version 1: what the command line shows and changes, for programs.

Its rows belong to the project of `[api] project`; who may do what, the policy says (imageflow.access).
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from imageflow.api.access import Access
from imageflow.api.v1.builds import builds_router
from imageflow.api.v1.creation import creation_router
from imageflow.api.v1.images import images_router
from imageflow.api.v1.requests import catalog_router, requests_router
from imageflow.api.v1.steering import steering_router
from imageflow.service import Service


def api_router(service: Service, access: Access) -> APIRouter:
    """All operations, and the documents by which clients find them."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def versions(request: Request) -> dict[str, object]:
        return {"versions": [_version(request)]}

    @router.get("/v1", include_in_schema=False)
    @router.get("/v1/", include_in_schema=False)
    async def version(request: Request) -> dict[str, object]:
        return {"version": _version(request)}

    router.include_router(builds_router(service, access))
    router.include_router(creation_router(service, access))
    router.include_router(steering_router(service, access))
    router.include_router(images_router(service, access))
    router.include_router(requests_router(service, access))
    router.include_router(catalog_router(service, access))
    return router


def _version(request: Request) -> dict[str, object]:
    """What keystoneauth and openstacksdk look for; without it they guess."""
    links = [
        {"rel": "self", "href": f"{request.base_url}v1/"},
        {"rel": "describedby", "type": "application/json", "href": f"{request.base_url}openapi.json"},
    ]
    return {"id": "v1.0", "status": "CURRENT", "links": links}
