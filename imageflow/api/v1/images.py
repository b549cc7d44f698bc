"""/v1/images: which images and versions there are."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi import Path as InPath
from starlette.responses import Response

from imageflow.access import Caller
from imageflow.api.access import Access
from imageflow.api.responses import ID_HEADER, refusals
from imageflow.api.storing import in_thread
from imageflow.api.v1.asking import known_queries, tagged
from imageflow.api.v1.records import ImageList, ImageVersion, VersionList
from imageflow.errors import NotFound
from imageflow.service import Service

ImageName = Annotated[str, InPath(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the image.")]
Digest = Annotated[str, InPath(pattern=r"^([0-9a-f]{64}|newest)$", description="SHA-256, or `newest`.")]
_READ = refusals(400, 401, 403, 404, 429, 500, 503)
_TAG = {"ETag": {"description": "Of this state.", "schema": {"type": "string"}}}


def images_router(service: Service, access: Access) -> APIRouter:
    """The operations on images."""
    router = APIRouter(prefix="/v1/images", tags=["images"], dependencies=[Depends(access), Depends(known_queries)])
    asking = Depends(access)

    @router.get(
        "",
        operation_id="listImages",
        summary="List images, each with its newest version that is whole",
        response_model=ImageList,
        responses=refusals(400, 401, 403, 429, 500, 503) | {200: {"headers": ID_HEADER}},
    )
    async def list_images(caller: Caller = asking) -> ImageList:
        access.require(caller, "images:list", service.config.api.project)
        return await in_thread(_newest, service)

    @router.get(
        "/{image}/versions",
        operation_id="listVersions",
        summary="List the versions of an image, the newest first",
        response_model=VersionList,
        responses=_READ | {200: {"headers": ID_HEADER}},
    )
    async def list_versions(image: ImageName, caller: Caller = asking) -> VersionList:
        access.require(caller, "images:get", service.config.api.project)
        return await in_thread(_versions, service, image)

    @router.get(
        "/{image}/versions/{digest}",
        operation_id="getVersion",
        summary="Show a version of an image",
        response_model=ImageVersion,
        responses=_READ
        | {200: {"headers": ID_HEADER | _TAG}, 304: {"description": "As you have it.", "headers": ID_HEADER | _TAG}},
    )
    async def get_version(
        image: ImageName,
        digest: Digest,
        caller: Caller = asking,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        access.require(caller, "images:get", service.config.api.project)
        return tagged(await in_thread(_version, service, image, digest), if_none_match)

    return router


def _newest(service: Service) -> ImageList:
    return ImageList(images=[ImageVersion.of(version) for version in service.images.newest()])


def _versions(service: Service, image: str) -> VersionList:
    found = service.images.versions(image)
    if not found:
        raise NotFound(f"there is no image {image!r}", hint="GET /v1/images lists them")
    return VersionList(versions=[ImageVersion.of(version) for version in found])


def _version(service: Service, image: str, digest: str) -> ImageVersion:
    found = service.images.version(image if digest == "newest" else f"{image}@{digest}")
    if found.image != image:  # a name that looks like a digest
        raise NotFound(f"there is no image {image!r}", hint="GET /v1/images lists them")
    return ImageVersion.of(found)
