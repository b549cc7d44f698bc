"""What Heat's resource asks for and how it takes the answers; and that its package is all that heat-engine needs."""

from __future__ import annotations

import ast
import configparser
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imageflow.api.v1.request_records import RequestBody
from imageflow.heat import request
from imageflow.heat.request import Answer
from imageflow.wants.requests import RequestState

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "imageflow/heat"
# as heat has the properties of a resource: all of them
NOTHING: dict[str, Any] = {
    "os": None,
    "packages": [],
    "pip_packages": [],
    "custom_files": [],
    "config_system": None,
    "recipe": None,
    "image": None,
    "build": "if-missing",
}
STACK = {"stack": "shop", "stack_id": "5e50", "resource": "web"}


def given_(**properties: Any) -> dict[str, Any]:
    return {**NOTHING, **properties}


def sent(**properties: Any) -> RequestBody:
    """As imageflow reads it, which refuses what it does not know."""
    return RequestBody.model_validate(request.body(given_(**properties), **STACK))


def test_a_want_has_only_what_the_template_has() -> None:
    file = {"path": "/etc/motd", "content": "", "mode": None, "owner": None}
    body = request.body(given_(os="debian", packages=["nginx"], custom_files=[file], build="never"), **STACK)
    assert body == {
        "wanted": {"os": "debian", "packages": ["nginx"], "custom_files": [{"path": "/etc/motd", "content": ""}]},
        "build": "never",
        "user": {"kind": "heat", "stack": "shop", "stack_id": "5e50", "resource": "web"},
    }
    assert RequestBody.model_validate(body).wanted is not None


def test_everything_that_a_template_can_say_is_known_to_the_api() -> None:
    file = {"path": "/etc/motd", "content": "hello", "mode": "0644", "owner": "root:root"}
    read = sent(
        os="debian",
        packages=["nginx"],
        pip_packages=["flask==3.1.*"],
        custom_files=[file],
        config_system="chef",
        recipe="web",
    )
    assert read.wanted is not None
    assert read.wanted.canonical() == {
        "os": "debian",
        "packages": ["nginx"],
        "pip_packages": ["flask==3.1.*"],
        "custom_files": [file],
        "config_system": "chef",
        "recipe": "web",
    }
    assert sent(image="web").image == "web"
    with pytest.raises(ValidationError):
        RequestBody.model_validate(request.body(given_(image="web"), **STACK) | {"channel": "stable"})


def test_the_name_is_one_that_the_api_takes() -> None:
    assert request.name_of("9c91fb22-66d5-4e0c-9bb3-7296c7aa0d95") == "heat-9c91fb22-66d5-4e0c-9bb3-7296c7aa0d95"


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({}, "exactly one"),
        ({"os": "debian", "image": "web"}, "exactly one"),
        ({"image": "web", "packages": ["nginx"], "custom_files": [{}]}, "leave out packages, custom_files"),
        ({"os": "debian", "recipe": "web"}, "go together"),
        ({"os": "debian", "config_system": "chef"}, "go together"),
    ],
)
def test_properties_that_do_not_fit_together(properties: dict[str, Any], said: str) -> None:
    assert said in str(request.problem(given_(**properties)))


@pytest.mark.parametrize("properties", [{"os": "debian"}, {"image": "web"}])
def test_properties_that_do(properties: dict[str, Any]) -> None:
    assert request.problem(given_(**properties)) is None


@given(st.floats(0, 100_000))
def test_it_looks_ever_more_rarely(waited: float) -> None:
    assert 1 <= request.delay(waited) <= 30
    assert request.delay(waited) <= max(1.0, waited / 10)
    assert request.delay(waited + 10) >= request.delay(waited)


def answer(state: str, **more: Any) -> Answer:
    return Answer({"state": state, "image_id": None, "digest": None, "build_id": "3f0c", "reason": "", **more})


def test_only_a_build_is_waited_for() -> None:
    assert [state for state in RequestState if answer(state).building] == [RequestState.BUILDING]
    assert answer("building").failure("shop") is None


def test_an_image_that_is_there() -> None:
    there = answer("ready", image_id="1111", digest="ab")
    assert there.failure("shop") is None
    assert there.facts == {"image_id": "1111", "digest": "ab", "build_id": "3f0c"}
    assert "[store] driver = glance" in str(answer("ready", digest="ab").failure("shop"))


@pytest.mark.parametrize("state", [state for state in RequestState if state not in ("ready", "building")])
def test_whatever_ends_without_an_image_says_why_and_what_to_do(state: str) -> None:
    said = answer(state, reason="apt failed.", hint="imageflow build resume 3f0c").failure("shop")
    what = "the image" if state == "missing" else "build 3f0c"
    assert said is not None and said.startswith(f"{what} is {state}: apt failed. imageflow build resume 3f0c")
    assert said.endswith("'openstack stack update --existing shop' goes on from there") is (
        state in ("paused", "failed")
    )


def test_a_missing_image_has_no_build() -> None:
    said = answer("missing", build_id=None, reason="there is none", hint="build it in test").failure("shop")
    assert said == "the image is missing: there is none. build it in test"


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            names.add(node.module)
    return names


def test_the_package_needs_what_heat_has() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) >= 6
    known = {*sys.stdlib_module_names, "heat", "keystoneauth1"}
    for file in files:
        foreign = {n for n in imported(file) if n.partition(".")[0] not in known and not n.startswith("imageflow.heat")}
        assert not foreign, (file, foreign)


def test_the_wheel_has_all_of_it_and_the_version_of_imageflow() -> None:
    wheel, main = (configparser.ConfigParser() for _ in range(2))
    wheel.read(ROOT / "packaging/heat/setup.cfg")
    main.read(ROOT / "setup.cfg")
    assert wheel["metadata"]["version"] == main["metadata"]["version"]
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in PACKAGE.rglob("*.py")}
    assert set(wheel["options"]["packages"].split()) == folders
