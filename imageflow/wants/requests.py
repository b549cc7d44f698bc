"""Requests: somebody asks for an image under a name of their own; asking again is the same request.

A request holds the build that answers it, and the version that this makes: neither is removed before the request is.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from imageflow.builds.estimate import estimate
from imageflow.builds.wanted import Plan, Wanted
from imageflow.config import Config
from imageflow.errors import Conflict, NoSpace, NotFound, RecipeError, Refused, SecretMissing
from imageflow.model import Build, BuildState, Submission, Version, VersionState
from imageflow.persistence import builds, registry, requests, steps, versions
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.persistence.requests import BuildPolicy, ImageRequest
from imageflow.recipe import ImageRecipe
from imageflow.wants.catalog import Catalog
from imageflow.wants.pinning import Pinning
from imageflow.wants.want import Want

if TYPE_CHECKING:
    from imageflow.builds.submission import Submitter
    from imageflow.registry.images import RegisteredImages

__all__ = ["Asked", "BuildPolicy", "ImageRequest", "RequestState", "Requests"]

_TRIES = 3  # a version may be deleted just when it is about to be held
_PATIENCE = 8.0  # seconds that a request waits for others that pin the same


class RequestState(StrEnum):
    """Where a request is."""

    READY = "ready"  # its image version is there
    BUILDING = "building"
    PAUSED = "paused"  # a step of its build failed; when an operator resumes that, it goes on
    FAILED = "failed"  # its build ended without an image: asking again builds again
    MISSING = "missing"  # there is no version (any more): asking again looks again


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what has become of it."""

    request: ImageRequest
    state: RequestState
    reason: str
    hint: str = ""
    build: Build | None = None
    version: Version | None = None
    progress: float | None = None  # 0 … 1, while it is built
    remaining: float | None = None  # seconds


class _Vanished(Exception):
    """The version that was found is not there any more."""


class Requests:
    """Asks, tells, and lets go."""

    def __init__(
        self,
        config: Config,
        database: Database,
        catalog: Catalog,
        submitter: Submitter,
        registered: RegisteredImages,
    ) -> None:
        self._config = config
        self._database = database
        self._catalog = catalog
        self._submitter = submitter
        self._registered = registered
        self._pinning = Pinning(config.catalog.fresh, _PATIENCE)

    # -- asking ---------------------------------------------------------------------------------------

    def put(self, request: ImageRequest, want: Want | None = None, cause: str = "") -> Asked:
        """Ask for what is wanted, or for `request.image`; who has asked for the same before gets the same.

        Raises BadInput for what the catalog does not know or take, NotFound for an image that no recipe has, Conflict
        for one that can't be built as it stands, or when the project has too many requests.
        """
        request, recipe = self._resolved(request, want)
        with self._database.read() as conn:
            before = requests.find(conn, request.project, request.name)
            if before is None and requests.count(conn, request.project) >= self._config.catalog.max_requests:
                raise Conflict(
                    f"project {request.project!r} has {self._config.catalog.max_requests} requests, as many as it may have",
                    hint="delete those that nobody needs; or [catalog] max_requests",
                )
        if before is not None and _same(before, request):
            asked = self.told(before)
            if asked.state not in (RequestState.FAILED, RequestState.MISSING):
                return asked
        for _ in range(_TRIES):
            try:
                if request.policy is BuildPolicy.NEVER:
                    return self.told(self._taken(request))
                return self._built(request, recipe, cause)
            except _Vanished:
                continue
        raise Conflict(f"versions of {request.image} come and go", hint="ask again")

    def plan(self, request: ImageRequest, want: Want | None = None) -> tuple[ImageRequest, Plan | None]:
        """What asking would do: a plan, or, when nothing may be built, the request with the build of what is there."""
        request, recipe = self._resolved(request, want)
        if request.policy is BuildPolicy.NEVER:
            whole = self._database.look(functools.partial(_newest, image=request.image))
            return replace(request, build_id=None if whole is None else whole.build_id), None
        return request, self._submitter.plan_of(self._wanted(request, recipe)[0])

    def _resolved(self, request: ImageRequest, want: Want | None) -> tuple[ImageRequest, ImageRecipe | None]:
        """With the image's name, and the recipe of a want."""
        if want is None:
            self._known(request)
            return request, None
        recipe = self._catalog.image(want)
        return replace(request, image=recipe.name, wanted=want.canonical()), recipe

    def _known(self, request: ImageRequest) -> None:
        """Raise NotFound for an image that no recipe and no version has."""
        try:
            self._registered.recipe(request.image)
        except NotFound:
            with self._database.read() as conn:
                if not versions.select(conn, request.image, limit=1):
                    raise

    def _taken(self, request: ImageRequest) -> ImageRequest:
        """The newest whole version that is there, if there is one."""

        def take(conn: Connection) -> ImageRequest:
            whole = _newest(conn, request.image)
            if whole is not None and not versions.hold(conn, whole.build_id):
                raise _Vanished
            held = replace(request, build_id=None if whole is None else whole.build_id)
            return requests.put(conn, held, time.time())

        return self._database.transact(take, patience=REQUEST)

    def _built(self, request: ImageRequest, recipe: ImageRecipe | None, cause: str) -> Asked:
        """The version that is there for the present inputs, or a build of it."""
        made: list[ImageRequest] = []
        registered: int | None = None

        def answer(conn: Connection, submission: Submission) -> None:
            if registered is not None and registry.current(conn, request.image) != registered:
                raise Conflict(f"the recipe of {request.image} was changed at this moment", hint="ask again")
            build = submission.build
            if build.state is BuildState.SUCCEEDED and not versions.hold(conn, build.id):
                raise _Vanished  # it ended, and went, since we looked
            made[:] = [requests.put(conn, replace(request, build_id=build.id), time.time())]

        try:
            wanted, registered = self._wanted(request, recipe)
            submission = self._submitter.ask(wanted, cause=cause, answer=answer)
        except NoSpace:
            raise
        except (RecipeError, SecretMissing, Refused) as error:  # the request is good, what it names can't be built
            raise Conflict(f"{request.image} can't be built as it stands: {error.message}", hint=error.hint) from None
        if submission.version is not None:
            return _asked(made[0], submission.build, submission.version)
        return self.told(made[0])

    def _wanted(self, request: ImageRequest, recipe: ImageRecipe | None) -> tuple[Wanted, int | None]:
        """The image as it would be built now, and the id of the registered recipe that it is in."""
        if recipe is not None:
            canonical = recipe.canonical()
            pin = functools.partial(self._submitter.wanted, canonical, self._catalog.folder)
            return self._pinning.wanted(canonical, pin), None
        registered, stored = self._registered.recipe(request.image)
        pin = functools.partial(self._registered.wanted, registered, stored)
        return self._pinning.wanted({"recipe": registered.id, **stored}, pin), registered.id

    # -- telling ----------------------------------------------------------------------------------------

    def get(self, project: str, name: str) -> Asked:
        """Raises NotFound."""
        with self._database.read() as conn:
            found = requests.find(conn, project, name)
        if found is None:
            raise NotFound(f"there is no request {name!r} in project {project!r}", hint="'imageflow request list'")
        return self.told(found)

    def select(self, project: str, limit: int = 1000, after: str | None = None) -> list[Asked]:
        """A project's requests in the order of their names, without their wants and the progress of their builds."""
        with self._database.read() as conn:
            found = requests.select(conn, project, limit, after)
            ids = [request.build_id for request in found if request.build_id is not None]
            known, made = builds.some(conn, ids), versions.made_by(conn, ids)
        return [_asked(one, known.get(one.build_id or ""), made.get(one.build_id or "")) for one in found]

    def delete(self, project: str, name: str) -> None:
        """Let go of the version; it stays, and a build goes on. Raises NotFound."""
        now = time.time()
        if not self._database.transact(lambda conn: requests.remove(conn, project, name, now), patience=REQUEST):
            raise NotFound(f"there is no request {name!r} in project {project!r}", hint="'imageflow request list'")

    def told(self, request: ImageRequest) -> Asked:
        """What has become of a request."""
        if request.build_id is None:
            return _asked(request, None, None)
        with self._database.read() as conn:
            version = versions.made_by(conn, [request.build_id]).get(request.build_id)
            build = builds.some(conn, [request.build_id]).get(request.build_id)
            asked = _asked(request, build, version)
            if build is None or build.state is not BuildState.RUNNING:
                return asked
            found = estimate(build, steps.of(conn, build.id), steps.history(conn, build.image), time.time())
        return replace(asked, progress=found.progress, remaining=found.remaining)


def _newest(conn: Connection, image: str) -> Version | None:
    """The newest version of an image that is whole."""
    return next((one for one in versions.select(conn, image) if one.state is VersionState.STORED), None)


def _same(before: ImageRequest, request: ImageRequest) -> bool:
    """Whether it asks for the same."""
    return (before.image, before.wanted, before.policy) == (request.image, request.wanted, request.policy)


def _asked(request: ImageRequest, build: Build | None, version: Version | None) -> Asked:
    if version is not None:
        if version.state is VersionState.STORED:
            return Asked(request, RequestState.READY, "its image is there", build=build, version=version)
        why = version.why or f"its image is {version.state}"
        return Asked(request, RequestState.MISSING, why, "ask again", build=build, version=version)
    if request.build_id is None:
        return Asked(
            request,
            RequestState.MISSING,
            f"there is no version of {request.image}, and the request says that none is built",
            "build it where it is tested, or ask with build: if-missing",
        )
    if build is None:
        return Asked(request, RequestState.FAILED, "its build is not known any more", "ask again")
    resume = f"imageflow build resume {build.id}"
    if build.state in (BuildState.QUEUED, BuildState.RUNNING):
        return Asked(request, RequestState.BUILDING, build.reason, build=build)
    if build.state is BuildState.PAUSED:
        hint = "; ".join(filter(None, [build.hint, resume]))
        return Asked(request, RequestState.PAUSED, build.error or "its build is paused", hint, build=build)
    why = build.error or f"its build is {build.state}"
    return Asked(request, RequestState.FAILED, why, "ask again: it is built again", build=build)
