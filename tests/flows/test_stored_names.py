"""Names that lie in databases: a flow that was begun by an older imageflow is resumed by them."""

from __future__ import annotations

import typing
from itertools import pairwise

from imageflow.builds.engine import factory_of, outline
from imageflow.tasks import results


def test_the_steps_of_dib() -> None:
    """Never rename one; a new shape is a new factory, and the old one stays for a release."""
    assert factory_of("dib") == "imageflow.flows.dib.build_by_dib"
    assert [name for name, _title in outline("dib", {}).steps] == [
        "prepare-workspace",
        "collect-inputs",
        "build-disk",
        "finish-outputs",
        "describe-image",
        "publish-image",
        "remove-workspace",
    ]


def test_a_linear_flow_has_one_edge_between_two_steps() -> None:
    steps = [name for name, _title in outline("dib", {}).steps]
    assert list(outline("dib", {}).edges) == list(pairwise(steps))


def test_the_steps_of_install() -> None:
    assert factory_of("boot") == "imageflow.flows.boot.build_by_boot"
    assert factory_of("install") == "imageflow.flows.install.build_by_install"
    recipe = {"configure": [{"packages": ["nginx"]}, {"shell": {"run": "true"}}]}
    assert [name for name, _title in outline("install", recipe).steps] == [
        "prepare-machine",
        "fetch-media",
        "remaster-media",
        "boot-installer",
        "await-installed",
        "boot-machine",
        "await-ssh",
        "configure-01-packages",
        "configure-02-shell",
        "seal",
        "stop-machine",
        "snapshot-machine",
        "verify-image",
        "describe-image",
        "delete-machine",
        "publish-image",
        "remove-workspace",
    ]


def test_the_keys_of_results() -> None:
    """Never rename one, and make a new one `NotRequired`: a build that is under way has the old ones."""
    found = {
        name.removesuffix("Result").lower(): set(kind.__required_keys__)
        for name, kind in vars(results).items()
        if typing.is_typeddict(kind)
    }
    assert found == {
        "artifact": {"name", "format", "size", "digest", "virtual_size"},
        "file": {"path", "artifact"},
        "description": {"packages", "content", "properties", "path", "artifact"},
        "publication": {"image", "store", "digest", "path", "artifacts", "packages", "content", "properties"},
        "workspace": {"path", "memory"},
        "inputs": {"configure"},
        "disk": {"folder", "name", "files", "environment"},
        "start": {"stage", "key"},
        "layer": {"key"},
        "media": {"path"},
        "remastered": {"path", "marker"},
        "machine": {"name", "state", "process", "accelerator"},
        "booted": {"name", "state", "process", "accelerator", "stage", "key"},
        "reached": {"system"},
        "configured": {"key", "reused"},
        "sealed": {"packages", "system", "machine_id", "content"},
        "stopped": {"machine"},
        "verified": {"checks"},
    }
