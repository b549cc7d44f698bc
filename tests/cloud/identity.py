"""Keystone's part: regions, services, users, and the application credential that the tests act with."""

from __future__ import annotations

from typing import Any

import requests
from keystoneauth1.identity import v3
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from tests.cloud.settings import PROJECT, REGION, SECOND_REGION, Settings

ADMIN = "admin"
MEMBERS = (PROJECT, "outsider")  # plain members of one project: one builds, one uploads the bases
_SERVICES = (
    ("identity", "keystone", "keystone", "", REGION),
    ("identity", "keystone", "keystone", "", SECOND_REGION),
    ("image", "glance", "glance-api", "", REGION),
    ("image", "glance", "glance-second", "", SECOND_REGION),
    ("placement", "placement", "placement", "", REGION),
    ("compute", "nova", "nova-api", "/v2.1", REGION),
    ("network", "neutron", "neutron-server", "", REGION),
    ("orchestration", "heat", "heat-api", "/v1/%(project_id)s", REGION),
)


def session(auth: BaseAuthPlugin) -> Session:
    """A session that uses no proxy."""
    plain = requests.Session()
    plain.trust_env = False
    return Session(auth=auth, session=plain)


def password(settings: Settings, user: str, project: str) -> Session:
    """A session with a user's password."""
    auth = v3.Password(
        auth_url=settings.auth_url,
        username=user,
        password=settings.password,
        project_name=project,
        user_domain_id="default",
        project_domain_id="default",
    )
    return session(auth)


class Keystone:
    """The part of its API that is needed here."""

    def __init__(self, settings: Settings, user: str = ADMIN, project: str = ADMIN) -> None:
        self._base = settings.auth_url
        self._session = password(settings, user, project)

    def list(self, kinds: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._session.get(f"{self._base}/{kinds}").json()[kinds.rpartition("/")[2]]
        return found

    def create(self, kind: str, path: str, **body: object) -> dict[str, Any]:
        made: dict[str, Any] = self._session.post(f"{self._base}/{path}", json={kind: body}).json()[kind]
        return made

    def find_or_create(self, kind: str, name: str, **body: object) -> str:
        """The id of the object with this name."""
        for found in self.list(f"{kind}s"):
            if found["name"] == name:
                return str(found["id"])
        return str(self.create(kind, f"{kind}s", name=name, **body)["id"])

    def grant(self, project: str, user: str, role: str) -> None:
        self._session.put(f"{self._base}/projects/{project}/users/{user}/roles/{role}")


def provision(settings: Settings) -> dict[str, str]:
    """Make what every cloud has; -> the application credential: id, secret."""
    keystone = Keystone(settings)
    roles = {r["name"]: r["id"] for r in keystone.list("roles")}
    roles["service"] = keystone.find_or_create("role", "service")
    projects = {n: keystone.find_or_create("project", n, domain_id="default") for n in ("service", PROJECT)}
    users = {
        name: keystone.find_or_create("user", name, domain_id="default", password=settings.password)
        for name in (ADMIN, "service", *MEMBERS)
    }
    for project, user, role in (
        ("service", "service", "admin"),
        ("service", "service", "service"),
        (PROJECT, ADMIN, "admin"),
        *((PROJECT, name, "member") for name in MEMBERS),
    ):
        keystone.grant(projects[project], users[user], roles[role])
    keystone.create("region", "regions", id=SECOND_REGION)
    for kind, name, listener, path, region in _SERVICES:
        if (kind, region) != ("identity", REGION):  # keystone-manage bootstrap made that one
            service = keystone.find_or_create("service", name, type=kind)
            body = {"service_id": service, "url": settings.url(listener, path), "region_id": region}
            for interface in ("public", "internal", "admin"):
                keystone.create("endpoint", "endpoints", interface=interface, **body)
    own = Keystone(settings, PROJECT, PROJECT)
    made = own.create("application_credential", f"users/{users[PROJECT]}/application_credentials", name="builds")
    return {"id": made["id"], "secret": made["secret"]}


def statements(settings: Settings) -> list[str]:
    """SQL that gives a copy of Keystone's database this cloud's ports."""
    return [
        "UPDATE keystone.endpoint e JOIN keystone.service s ON s.id = e.service_id"
        f" SET e.url = '{settings.url(listener, path)}' WHERE s.type = '{kind}' AND e.region_id = '{region}'"
        for kind, _, listener, path, region in _SERVICES
    ]
