"""The build key: the same for what is the same, another for whatever decides the image; and the reasons."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from imageflow import recipe
from imageflow.inputs import fingerprint
from imageflow.model import Build, BuildState
from tests.examples import examples

CANONICAL: dict[str, Any] = {
    "name": "web",
    "method": "dib",
    "dib": {
        "elements": ["debian-minimal", "vm"],
        "environment": {"DIB_RELEASE": "bookworm", "DIB_PASSWORD": {"secret": "PW"}},
        "image-size": 4,
        "checksum": True,
    },
    "configure": [
        {"packages": ["nginx"]},
        {"files": [{"source": "site.conf", "path": "/etc/site", "mode": "0644", "owner": "root:root"}]},
        {"users": [{"name": "bob", "password": "$6$salt$0123456789abcdef"}]},
    ],
    "outputs": ["qcow2"],
    "publish": {"name": "web", "keep": 3, "properties": {"os": "debian"}},
    "on_failure": "pause",
    "timeout": {"build": 60.0, "step": None},
}
PINS = {
    "archive:bookworm": "a" * 64,
    "diskimage-builder": "3.43.0",
    "element:debian-minimal": "b" * 64,
    "element:vm": "c" * 64,
    "file:site.conf": "d" * 64,
    "tool:qemu-img": "7.2",
}
KEY = fingerprint.build_key(CANONICAL, PINS)


def build(canonical: Any = CANONICAL, pins: Any = PINS) -> Build:
    return Build(
        id="0123456789ab",
        image="web",
        method="dib",
        state=BuildState.SUCCEEDED,
        reason="",
        key=KEY,
        flow="",
        created=0.0,
        recipe=canonical,
        pins=pins,
    )


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all single values."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]


def other(value: Any) -> Any:
    """A value of the same type that is not equal."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return 7 if value is None else f"{value}x"


def changed(path: tuple[Any, ...], canonical: Any = CANONICAL) -> Any:
    new = copy.deepcopy(canonical)
    at = new
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = other(at[path[-1]])
    return new


INDIFFERENT = [("on_failure",), ("timeout", "build"), ("timeout", "step"), ("publish", "keep")]


def test_the_key_is_a_contract() -> None:
    """A change of this value rebuilds everybody's images: raise the format's number if you mean it."""
    assert KEY == "4403889089ea03e22136995b71280225245220642c094aabf367809301452b54"


GOLDEN = {  # image -> the beginnings of SHA-256 of its canonical JSON as it is stored, and of its build key
    "tiny": ("fc3f34420bf0", "035bda21f56c"),
    "debian": ("d785f84dcf62", "040ccca3f5b3"),
    "everything": ("2cabe8098f26", "1f782649db97"),
}
SAMPLES = Path(__file__).parents[1] / "recipes"


def test_canonical_recipes_are_a_contract(tmp_path: Path) -> None:
    """They lie in every build's row, and decide its key: neither may change by accident."""
    folder = tmp_path / "recipes"
    shutil.copytree(SAMPLES, folder)
    (folder / "everything" / "greeting-1.0-py3-none-any.whl").touch()
    images = [
        *recipe.load(folder / "tiny.yaml").images,
        *recipe.load(folder / "everything" / "recipe.yaml").images,
    ]
    found = {}
    for image in images:
        text = json.dumps(image.canonical(), separators=(",", ":"))
        found[image.name] = (
            hashlib.sha256(text.encode()).hexdigest()[:12],
            fingerprint.build_key(image.canonical(), PINS)[:12],
        )
    assert found == GOLDEN


@pytest.mark.parametrize("path", leaves(CANONICAL), ids=lambda path: ".".join(map(str, path)))
def test_what_decides_the_image_decides_the_key(path: tuple[Any, ...]) -> None:
    new = changed(path)
    assert (fingerprint.build_key(new, PINS) == KEY) == (path in INDIFFERENT)
    reason = fingerprint.why(build(), new, PINS)
    assert reason.startswith("nothing changed") == (path in INDIFFERENT)


@pytest.mark.parametrize("name", PINS)
def test_every_pin_decides_the_key(name: str) -> None:
    assert fingerprint.build_key(CANONICAL, PINS | {name: "other"}) != KEY
    assert fingerprint.build_key(CANONICAL, {key: value for key, value in PINS.items() if key != name}) != KEY
    assert fingerprint.build_key(CANONICAL, PINS | {f"{name}-more": "x"}) != KEY


def shuffled(value: Any, order: random.Random) -> Any:
    """The same with the keys of mappings in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(item, order) for key, item in items}
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    return value


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)
RECIPES = st.dictionaries(st.text(), VALUES, max_size=5).map(lambda more: {**more, "name": "web"})
TEXTS = st.dictionaries(st.text(), st.text(), max_size=6)


@given(canonical=RECIPES, pins=TEXTS, seed=st.integers())
def test_the_order_of_keys_does_not_matter_and_json_does_not_change_it(canonical: Any, pins: Any, seed: int) -> None:
    order = random.Random(seed)
    key = fingerprint.build_key(canonical, pins)
    assert len(key) == 64 and set(key) <= set("0123456789abcdef")
    assert fingerprint.build_key(shuffled(canonical, order), shuffled(pins, order)) == key
    assert fingerprint.build_key(json.loads(json.dumps(canonical)), json.loads(json.dumps(pins))) == key


@given(canonical=RECIPES, pins=TEXTS, more=TEXTS)
def test_other_pins_are_another_key(canonical: Any, pins: Any, more: Any) -> None:
    same = fingerprint.build_key(canonical, pins) == fingerprint.build_key(canonical, more)
    assert same == (pins == more)


@given(canonical=RECIPES, data=st.data())
def test_other_recipes_are_another_key_and_have_a_reason(canonical: Any, data: st.DataObject) -> None:
    paths = [path for path in leaves(canonical) if path[0] not in ("on_failure", "timeout", "publish")]
    path = data.draw(st.sampled_from(paths))
    new = changed(path, canonical)
    if json.dumps(new, sort_keys=True) == json.dumps(canonical, sort_keys=True):
        return  # 1e300 + 1
    assert fingerprint.build_key(new, {}) != fingerprint.build_key(canonical, {})
    assert not fingerprint.why(build(canonical, {}), new, {}).startswith("nothing changed")


@given(canonical=RECIPES, pins=TEXTS)
def test_no_difference_is_said_to_be_none(canonical: Any, pins: Any) -> None:
    assert fingerprint.why(build(canonical, pins), canonical, pins).startswith(
        "nothing changed since build 0123456789ab"
    )


NAMES = st.sampled_from(["vm", "debian-minimal", "base", "x1"])
IMAGES = st.fixed_dictionaries(
    {
        "name": st.just("a"),
        "method": st.just("dib"),
        "dib": st.fixed_dictionaries({"elements": st.lists(NAMES, min_size=1)}),
    },
    optional={
        "outputs": st.lists(st.sampled_from(["raw", "tar"]), min_size=1, unique=True),
        "configure": st.lists(st.fixed_dictionaries({"packages": st.lists(NAMES, min_size=1)}), max_size=2),
        "on_failure": st.sampled_from(["pause", "revert"]),
    },
)


@examples(0.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=IMAGES, seed=st.integers(), flow=st.booleans(), indent=st.integers(2, 8))
def test_the_writing_of_a_recipe_does_not_matter(
    tmp_path: Path, image: Any, seed: int, flow: bool, indent: int
) -> None:
    def key(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return fingerprint.build_key(recipe.load(tmp_path / name).images[0].canonical(), PINS)

    plain = yaml.safe_dump({"images": [image]})
    written = yaml.safe_dump(
        {"images": [shuffled(image, random.Random(seed))]}, sort_keys=False, default_flow_style=flow, indent=indent
    )
    assert key("a.yaml", plain) == key("b.yaml", f"# a comment\n\n{written}\n# another\n\n")


def test_a_secret_and_its_place_do_not_matter(tmp_path: Path) -> None:
    def key(folder: str, password: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / "recipe.yaml"
        file.write_text(f"- {{imagename: a, elements: [vm], environment: {{MY_PASSWORD: '{password}'}}}}\n")
        return fingerprint.build_key(recipe.load(file).images[0].canonical(), PINS)

    assert key("here", "hunter2") == key("there", "hunter3")


# -- reasons -------------------------------------------------------------------------------------


def test_the_first_build() -> None:
    assert fingerprint.why(None, CANONICAL, PINS) == "first build of web"


def test_changed_pins_are_named() -> None:
    new = dict(PINS)
    new |= {"element:debian-minimal": "x", "file:site.conf": "x", "archive:bookworm": "x", "tool:qemu-img": "8.0"}
    new |= {"element:base": "x", "diskimage-builder": "3.44.0"}
    del new["element:vm"]
    assert fingerprint.why(build(), CANONICAL, new).split(", ") == [
        "archive bookworm moved",
        "diskimage-builder 3.43.0 → 3.44.0",
        "element base added",
        "element debian-minimal changed",
        "element vm removed",
        "file site.conf changed",
        "qemu-img 7.2 → 8.0",
    ]


def test_changed_keys_are_named_with_old_and_new() -> None:
    new = copy.deepcopy(CANONICAL)
    new["dib"]["environment"]["DIB_RELEASE"] = "trixie"
    new["dib"]["environment"]["DIB_NEW"] = "yes"
    new["dib"]["elements"].append("bootloader")
    del new["dib"]["image-size"]
    new["configure"][0]["packages"] = ["nginx", "curl"]
    assert fingerprint.why(build(), new, PINS) == (
        "configure[0].packages [nginx] → [nginx, curl], "
        "dib.elements [debian-minimal, vm] → [debian-minimal, vm, bootloader], "
        "dib.environment.DIB_NEW added: yes, "
        "dib.environment.DIB_RELEASE bookworm → trixie, "
        "dib.image-size removed"
    )


def test_a_reason_shows_no_secret_and_nothing_long() -> None:
    new = copy.deepcopy(CANONICAL)
    new["dib"]["environment"]["DIB_PASSWORD"] = {"secret": "OTHER"}
    new["dib"]["environment"]["DIB_LONG"] = "x" * 500
    new["configure"][2]["users"][0]["password"] = "$6$salt$fedcba9876543210"
    new["configure"].append({"files": [{"content": "key = hunter2", "path": "/x"}]})
    reason = fingerprint.why(build(), new, PINS)
    assert "salt" not in reason and "hunter2" not in reason and "xxxx" not in reason
    assert "configure[2].users[0].password changed" in reason
    assert "dib.environment.DIB_LONG added" in reason
    assert "dib.environment.DIB_PASSWORD secret PW → secret OTHER" in reason
    assert "configure[3].files[0].content added" in reason


def test_a_value_that_becomes_a_list_or_a_secret() -> None:
    new = copy.deepcopy(CANONICAL)
    new["dib"]["environment"]["DIB_RELEASE"] = {"secret": "X"}
    new["configure"] = []
    reason = fingerprint.why(build(), new, PINS)
    assert "dib.environment.DIB_RELEASE bookworm → secret X" in reason
    assert "configure[0].packages removed" in reason
    assert "configure added" not in reason


def test_another_base_is_told_by_its_digests() -> None:
    before = build(CANONICAL, {"base:image:debian": "a" * 64})
    reason = fingerprint.why(before, CANONICAL, {"base:image:debian": "b" * 64})
    assert reason == "base image debian aaaaaaaaaaaa → bbbbbbbbbbbb"
