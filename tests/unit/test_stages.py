"""Keys of layers: what changes them, and what doesn't."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from imageflow.inputs.stages import configure_steps, limits, stages

RECIPE: dict[str, Any] = {
    "name": "web",
    "method": "boot",
    "base": {"image": "debian"},
    "machine": {"vcpus": 2, "memory": 1024, "disk": None, "firmware": "bios", "user": "root"},
    "configure": [
        {"packages": ["nginx"]},
        {"files": [{"source": "site.conf", "path": "/etc/site.conf"}]},
        {"ansible": {"playbook": "site.yml", "with": ["roles"]}},
        {"shell": {"run": "systemctl enable nginx", "environment": {}}, "timeout": 30.0},
    ],
    "verify": [],
}
PINS = {
    "base:image:debian": "a" * 64,
    "file:site.conf": "1",
    "file:site.yml": "2",
    "file:roles/x/tasks/main.yml": "3",
    "file:roles-of-others": "4",
}
STABLE = ["01d8972e0277", "841049e7f3ad", "3ec78986f7c4", "2984b6e7c58a", "743c51f3ade8"]


def keys(recipe: dict[str, Any] = RECIPE, pins: dict[str, str] = PINS) -> list[str]:
    return [stage.key for stage in stages(recipe, pins)]


def test_keys_are_stable() -> None:
    """They decide what is installed again everywhere: never change them by accident."""
    assert [key[:12] for key in keys()] == STABLE


def test_a_changed_line_leaves_what_is_before_it() -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["configure"][2]["ansible"]["tags"] = ["web"]
    assert [old == new for old, new in zip(keys(), keys(recipe), strict=True)] == [True, True, True, False, False]


def test_a_changed_base_invalidates_everything() -> None:
    assert keys(pins=PINS | {"base:image:debian": "b" * 64}) != keys()
    assert not set(keys(pins=PINS | {"base:image:debian": "b" * 64})) & set(keys())


@pytest.mark.parametrize(
    ("pin", "first"), [("file:site.conf", 2), ("file:site.yml", 3), ("file:roles/x/tasks/main.yml", 3)]
)
def test_a_changed_file_invalidates_the_entry_that_uses_it(pin: str, first: int) -> None:
    now = keys(pins=PINS | {pin: "other"})
    assert [old == new for old, new in zip(keys(), now, strict=True)] == [at < first for at in range(5)]


def test_what_says_nothing_about_the_disk_changes_nothing() -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["machine"] |= {"vcpus": 8, "memory": 4096}
    recipe["configure"][3]["timeout"] = 60.0
    recipe["configure"][0]["checkpoint"] = True
    recipe["verify"] = [{"shell": {"run": "true"}}]
    assert keys(recipe, PINS | {"file:roles-of-others": "5"}) == keys()


@pytest.mark.parametrize("change", [{"disk": 9}, {"firmware": "uefi"}, {"user": "ops"}])
def test_what_does_changes_all_but_the_base(change: dict[str, Any]) -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["machine"] |= change
    assert [old == new for old, new in zip(keys(), keys(recipe), strict=True)] == [True] + [False] * 4


def test_an_installed_system_is_another_one_for_another_key() -> None:
    installed = RECIPE | {"method": "install", "answers": {"preseed": "p"}, "iso": {"file": "i"}}
    installed["machine"] = RECIPE["machine"] | {"disk": 4}
    pins = PINS | {"iso:file:i": "1", "file:p": "2"}
    none, one, other = (
        [stage.key for stage in stages(installed, pins, login)] for login in (None, "ssh-ed25519 A", "ssh-ed25519 B")
    )
    assert len({*none, *one, *other}) == 15


def test_names_and_limits_of_steps() -> None:
    """The names are stored contracts: a build that was begun by an older imageflow is resumed by them."""
    assert configure_steps(RECIPE) == [
        ("configure-01-packages", "packages nginx"),
        ("configure-02-files", "files /etc/site.conf"),
        ("configure-03-ansible", "ansible site.yml"),
        ("configure-04-shell", "shell systemctl enable nginx"),
    ]
    assert limits(RECIPE) == {"configure-04-shell": 30.0}


def test_a_static_image_has_no_stages() -> None:
    assert stages({"method": "dib"}, {}) == ()
