"""The Glance of the test cloud, in a project of its own, as the contract of stores needs it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import yaml

from imageflow import config
from imageflow.config import Config
from imageflow.config.clouds import GlanceConfig, OpenStackConfig
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.openstack.image import GlanceImage
from imageflow.stores import About, ImageRef
from imageflow.stores.glance.driver import GlanceStore
from tests.cloud.settings import REGION
from tests.contracts.stores import damage, image


class Project:
    """A project of its own, whose only user is an ordinary member; and another project, which only looks."""

    def __init__(self, cloud: Any, folder: Path) -> None:
        from openstack.connection import Connection

        self.cloud = cloud
        self.admin = Connection(session=cloud.session("admin"), region_name=REGION, compute_api_version="2")
        self._made: list[tuple[str, str]] = []
        self.clouds_yaml = folder / "clouds.yaml"
        identity = self.admin.identity
        member = identity.find_role("member", ignore_missing=False)
        said: dict[str, Any] = {}
        for cloud_name in ("store", "outsider"):
            name, password = f"{cloud_name}-{secrets.token_hex(4)}", secrets.token_hex(8)
            project = identity.create_project(name=name, domain_id="default")
            user = identity.create_user(name=name, password=password, domain_id="default")
            identity.assign_project_role_to_user(project, user, member)
            self._made.append((project.id, user.id))
            auth = {
                "auth_url": self.admin.session.auth.auth_url,
                "username": name,
                "password": password,
                "project_name": name,
                "user_domain_id": "default",
                "project_domain_id": "default",
            }
            said[cloud_name] = {"auth": auth, "region_name": REGION, "identity_api_version": 3}
        self.clouds_yaml.write_text(yaml.safe_dump({"clouds": said}))
        self.said = said

    def session(self) -> Any:
        """The member's keystoneauth session."""
        from openstack.connection import Connection

        return Connection(**self.said["store"]).session

    def outsider(self) -> Any:
        """The client of a user in another project."""
        from openstack.connection import Connection

        return Connection(**self.said["outsider"])

    def remove(self) -> None:
        """The projects, and their users."""
        for project, user in self._made:
            self.admin.identity.delete_user(user)
            self.admin.identity.delete_project(project)


class GlanceRig:
    """The Glance of a cloud, in a project of the tests' own."""

    shares = False

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.config = self.configured()

    def configured(self, **glance: Any) -> Config:
        """The configuration, with other [glance] options."""
        return dataclasses.replace(
            config.load(state_dir=str(self.folder)),
            openstack=OpenStackConfig("store", None, self.project.clouds_yaml, 60.0, 60.0),
            glance=dataclasses.replace(GlanceConfig("private", "upload", ()), **glance),
        )

    def store(self, **glance: Any) -> GlanceStore:
        return GlanceStore(self.configured(**glance))

    def store_at(self, auth_url: str, patience: float = 60.0) -> GlanceStore:
        """The same cloud at another URL."""
        said = json.loads(json.dumps(self.project.said["store"]))
        said["auth"]["auth_url"] = auth_url
        file = self.folder.with_name(f"{secrets.token_hex(4)}.yaml")
        file.write_text(yaml.safe_dump({"clouds": {"store": said}}))
        reached = OpenStackConfig("store", None, file, 60.0, patience)
        return GlanceStore(dataclasses.replace(self.config, openstack=reached))

    @property
    def images(self) -> list[GlanceImage]:
        """All images of our project, also hidden and half-made ones."""
        return self.store()._images.find({})

    def of(self, name: str, **properties: str) -> GlanceImage:
        """The image of an artifact."""
        (found,) = self.store()._images.find({"imageflow:artifact": name, **properties})
        return found

    def file(self, id: str) -> Path:
        """The file in which Glance keeps an image's data."""
        folder: Path = self.project.cloud.settings.state
        return folder / "glance-api" / "main" / id

    def damage(self, ref: ImageRef, name: str, how: str) -> None:
        there = self.of(name)
        if how == "remove":
            self.project.admin.image.delete_image(there.id)
        else:
            damage(self.file(there.id), how)

    def clean(self) -> None:
        """Remove everything, before the next test."""
        images = self.store()._images
        for one in images.find({}):
            if one.data.get("protected"):
                images.update(one.id, {"protected": False})
            images.remove(one.id)


def about(**more: Any) -> About:
    return About("web", key="k" * 64, recipe="web", architecture="amd64", **more)


def kernels(folder: Path) -> list[tuple[Path, Artifact]]:
    """The files of a build whose image has its kernel outside."""
    files = image(folder)
    for name, format, content in (("web.vmlinuz", "kernel", b"kernel" * 100), ("web.initrd", "initrd", b"")):
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append((folder / name, Artifact(name, format, len(content), digest)))
    return files


def one_whole_set(rig: GlanceRig, digest: str, count: int = 2) -> None:
    """Check that this version is there, once, and nothing else."""
    store = rig.store()
    assert [r.digest for r in store.list()] == [digest]
    assert len(rig.images) == count
    store.verify(digest, Control())
