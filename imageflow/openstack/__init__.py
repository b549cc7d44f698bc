"""A cloud as its operator configured it: one session, the clients of Nova and Glance, and the network's API."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any

from imageflow.config.clouds import OpenStackConfig
from imageflow.errors import ConfigError, ImageflowError, Refused
from imageflow.openstack.cloud_errors import patiently, translated

_HINT = "see [openstack] in imageflow.conf, clouds.yaml, and 'openstack token issue' with the same cloud"
_NOVA = "2.42"  # the minimum: Newton's; tags and snapshot ids came later and are not needed


@functools.lru_cache(maxsize=32)
def _region(cloud: str | None, region: str | None, file: Path | None, timeout: float, *_said: object) -> Any:
    """Openstacksdk's configuration of a cloud, which holds the session: all users of a cloud share one token."""
    from openstack.config import OpenStackConfig as Loader

    secure = [str(file.with_name("secure.yaml"))] if file else None
    loader = Loader(config_files=[str(file)] if file else None, secure_files=secure)
    _check(loader, cloud, file)
    entry = loader.cloud_config["clouds"].get(cloud or loader.default_cloud)
    if region and entry and not entry.get("regions"):  # openstacksdk would refuse any region but region_name
        entry["region_name"] = region
    wanted: dict[str, Any] = {"api_timeout": timeout} | ({"region_name": region} if region else {})
    return loader.get_one(cloud, **wanted)


def _check(loader: Any, cloud: str | None, file: Path | None) -> None:
    """Raise ConfigError when openstacksdk found no such cloud, with the file it read and the clouds in it."""
    there, read = loader.get_cloud_names(), loader.config_filename
    name = cloud or os.environ.get("OS_CLOUD")
    if name is None:
        said = any(os.environ.get(variable) for variable in ("OS_AUTH_URL", "OS_AUTH_TYPE"))
        if not said and loader.default_cloud in (None, "defaults", loader.envvar_key):
            raise ConfigError(
                "no cloud is configured", hint="set [openstack] cloud to its name in clouds.yaml; see doc/openstack.md"
            )
    elif name not in there:
        if read is None:
            where = f"there is no file {file}" if file else "there is no clouds.yaml"
            hint = (
                "see [openstack] clouds_yaml"
                if file
                else "make ~/.config/openstack/clouds.yaml, or /etc/openstack/clouds.yaml"
            )
            raise ConfigError(f"there is no cloud {name!r}: {where}, or it can't be read", hint=hint)
        known = ", ".join(sorted(one for one in there if one != loader.envvar_key)) or "none"
        raise ConfigError(
            f"there is no cloud {name!r} in {read}", hint=f"clouds in there: {known}; see [openstack] cloud"
        )


class Cloud:
    """One cloud, connected on first use; safe for any number of threads.

    An expired token is renewed, also in the middle of a build. Requests contain keys and tokens: the clients' own
    debug logs stay off.
    """

    def __init__(self, config: OpenStackConfig) -> None:
        self.config = config
        for name in ("keystoneauth", "novaclient", "glanceclient", "urllib3"):
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))

    @property
    def name(self) -> str:
        """The operator's name for it."""
        return "/".join(filter(None, (self.config.cloud or "the cloud", self.config.region)))

    @functools.cached_property
    def _region(self) -> Any:
        where = self.config
        said = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("OS_")))
        file = where.clouds_yaml
        written = file.stat().st_mtime_ns if file is not None and file.exists() else 0
        try:
            return _region(where.cloud, where.region, file, where.timeout, said, written)
        except ImageflowError:
            raise
        except Exception as error:  # noqa: BLE001 - openstacksdk's own classes, and those of every authentication plugin
            raise ConfigError(f"{self.name} can't be reached as configured: {error}", hint=_HINT) from None

    @functools.cached_property
    def session(self) -> Any:
        """keystoneauth1's session, shared by all clients."""
        try:
            return self._region.get_session()
        except ImageflowError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            raise ConfigError(f"{self.name} can't be reached as configured: {error}", hint=_HINT) from None

    def _where(self, service: str) -> dict[str, Any]:
        region = self._region
        found = {
            "region_name": region.get_region_name(service),
            "interface": region.get_interface(service),
            "endpoint_override": region.get_endpoint(service),
        }
        if not found["region_name"] and not found["endpoint_override"]:
            self._check_one_region(service)
        return {key: value for key, value in found.items() if value}

    def _check_one_region(self, service: str) -> None:
        """Raise ConfigError when the catalogue has several regions: clients would pick an arbitrary one."""
        endpoints = self._access().service_catalog.get_endpoints_data(service_type=service)
        regions = sorted({str(one.region_name) for found in endpoints.values() for one in found if one.region_name})
        if len(regions) > 1:
            raise ConfigError(
                f"{self.name} has several regions, and none is selected",
                hint=f"set [openstack] region, or region_name in clouds.yaml, to one of {', '.join(regions)}",
            )

    @functools.cached_property
    def glance(self) -> Any:
        """The client for Glance's API v2."""
        from glanceclient.v2.client import Client

        return Client(session=self.session, **self._where("image"))

    @functools.cached_property
    def nova(self) -> Any:
        """The Nova client, with the highest microversion that it and the cloud support."""
        from novaclient import api_versions, client

        where = self._where("compute")
        where["endpoint_type"] = where.pop("interface", None)
        with translated(f"{self.name}: Nova's versions"):
            oldest = client.Client("2.1", session=self.session, **where)
            version = api_versions.discover_version(oldest, api_versions.APIVersion("2.latest"))
        if version < api_versions.APIVersion(_NOVA):
            raise Refused(f"{self.name}: its Nova knows {version.get_string()}, and {_NOVA} is needed")
        return client.Client(version, session=self.session, **where)

    @functools.cached_property
    def network(self) -> Any:
        """A keystoneauth1 adapter for Neutron's API."""
        from keystoneauth1.adapter import Adapter

        return Adapter(self.session, service_type="network", **self._where("network"))

    @property
    def project(self) -> str:
        """Id of our project; asks Keystone if the token has expired."""
        return str(patiently(f"{self.name}: log in", self.session.get_project_id, patience=self.config.patience))

    @property
    def is_administrator(self) -> bool:
        """Whether Glance also lists other projects' images for us; asks Keystone if the token has expired."""
        return "admin" in self._access().role_names

    def _access(self) -> Any:
        """Keystone's answer to the login: roles and the catalogue."""
        session = self.session
        return patiently(
            f"{self.name}: log in", lambda: session.auth.get_access(session), patience=self.config.patience
        )
