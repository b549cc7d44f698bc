"""Who sends a request, and whether they may: the dependency of every route that is not for everybody."""

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

from fastapi import Request

from imageflow.access import Caller, implied
from imageflow.access.tokens import PREFIX, Tokens
from imageflow.api.clients import Clients
from imageflow.api.failures import Failures
from imageflow.api.problems import RequestProblem, busy, new_request_id
from imageflow.api.signatures import bearer
from imageflow.api.storing import ANSWER, in_thread
from imageflow.background.remembered import Remembered
from imageflow.config import Config
from imageflow.errors import ImageflowError
from imageflow.persistence.tokens import ApiToken

if TYPE_CHECKING:
    from imageflow.access.keystone import Keystone

# no `from __future__ import annotations`: FastAPI reads the annotations of an object's __call__ as they are
LOG = logging.getLogger(__name__)
KNOWN = 5.0  # seconds for which a token of ours is believed without another look: it is refused so long after 'revoke'
_TRUSTED = 600.0  # seconds since its last use for which guesses of others don't lock out a token of ours
_NOTED = 3600.0  # seconds between two notes of a token's use
_HINT = "send X-Auth-Token: TOKEN, or Authorization: Bearer TOKEN; 'imageflow token create' makes one"


class Access:
    """`caller: Caller = Depends(access)`, then `access.require(caller, "builds:list")`."""

    def __init__(self, config: Config, tokens: Tokens) -> None:
        """Raises ConfigError when the policy or [keystone_authtoken] is not usable."""
        from imageflow.access.policies import Policy  # only what serves needs it

        self._policy = Policy(config)
        self._tokens = tokens
        self._clients = Clients(config.api.trusted_proxies)
        self._failures = Failures()
        self._ours: Remembered[ApiToken] = Remembered()
        self._noted: Remembered[bool] = Remembered()
        self._accepted: Remembered[bool] = Remembered()  # tokens that guesses from the same client do not lock out
        self._notes: set[asyncio.Future[None]] = set()
        self._keystone = _keystone(config)

    async def __call__(self, request: Request) -> Caller:
        """Who sends this; raises RequestProblem 401, 403, 429, 503."""
        token = request.headers.get("x-auth-token") or bearer(request.headers.get("authorization")) or ""
        if not token:
            raise self._unauthorized("there is no token")
        # a service's token is checked with the user's, so the two are known together
        given = f"{token}\n{request.headers.get('x-service-token', '')}"
        key = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
        client = self._clients.of(request.scope)
        known = self._accepted.get(key) is not None
        if not known:
            self._failures.begin(client)
        try:
            caller, remember = await self._identify(request, token, key, known)
        except RequestProblem as problem:
            self._accepted.forget(key)
            if problem.status != 401 and not known:
                self._failures.forgive(client)
            raise
        if not known:
            self._failures.forgive(client)
        self._accepted.set(key, True, time=remember)
        return caller

    def require(self, caller: Caller, rule: str, project: str | None = None) -> None:
        """Raise RequestProblem 403 unless the caller may do this ("builds:list"), in their own project by default."""
        if not self._policy.allows(caller, rule, caller.project if project is None else project):
            raise RequestProblem(
                403,
                "access.forbidden",
                f"the policy does not allow {rule} to {', '.join(sorted(caller.roles)) or 'nobody without a role'}",
                hint="ask for another role in this project; the operator's policy.yaml says who may",
            )

    async def _identify(self, request: Request, token: str, key: str, known: bool) -> tuple[Caller, float]:
        """-> who it is, and for how many seconds the token may be taken for a good one."""
        request_id = getattr(request.state, "request_id", "") or new_request_id()
        if token.startswith(PREFIX):
            found = await self._our(token, key)
            caller = Caller(found.project, f"token:{found.id}", implied([found.role]), request_id)
            return caller, _TRUSTED
        if self._keystone is None or not request.headers.get("x-auth-token"):
            raise self._unauthorized("the token is not valid")
        from imageflow.access.keystone import Invalid

        try:
            async with asyncio.timeout(ANSWER):
                who = await self._keystone(request.scope, known=known)
        except Invalid as refused:
            raise self._unauthorized(
                "keystone does not take the token: it is wrong, has expired, was revoked, or its access rules don't allow this",
                refused.challenge,
            ) from None
        except (ImageflowError, TimeoutError) as error:
            LOG.warning("%s: %s", request_id, str(error) or "keystone does not answer in time")
            raise busy("keystone can't be asked whose token this is") from None
        if not who.project:
            raise RequestProblem(
                403, "access.unscoped", "the token is for no project", hint="ask keystone for one with a project"
            )
        return Caller(who.project, who.user, who.roles, request_id), self._keystone.remembers

    async def _our(self, token: str, key: str) -> ApiToken:
        found = self._ours.get(key)
        if found is None:
            try:
                found = await in_thread(self._tokens.check, token)
            except ImageflowError as error:
                LOG.warning("a token can't be checked: %s", error)
                raise busy("the token can't be checked now") from None
            if found is None:
                raise self._unauthorized("the token is not valid: it was mistyped, has expired or was revoked")
            self._ours.set(key, found, time=KNOWN)
        if self._noted.get(found.id) is None:
            self._noted.set(found.id, True, time=_NOTED)
            # not awaited: it may have to wait for another writer
            note = asyncio.get_running_loop().run_in_executor(None, self._tokens.used, found)
            self._notes.add(note)
            note.add_done_callback(self._notes.discard)
        return found

    def _unauthorized(self, detail: str, challenge: str = 'Bearer realm="imageflow"') -> RequestProblem:
        return RequestProblem(401, "access.unauthorized", detail, hint=_HINT, headers={"www-authenticate": challenge})


def _keystone(config: Config) -> "Keystone | None":
    if config.api.auth != "keystone":
        return None
    from imageflow.access.keystone import Keystone  # the extra `keystone` of imageflow may be missing

    return Keystone(config)
