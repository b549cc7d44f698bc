"""What a recipe says about images in Glance: bases and ISOs by name or id, and who sees what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageflow import config as configuration
from imageflow import recipe
from imageflow.builds import precheck
from imageflow.errors import RecipeError
from imageflow.inputs import fingerprint, stages
from imageflow.inputs.glance import Pinned
from imageflow.recipe import ImageRecipe

ID = "6f0e2b7c-1d0f-4e3a-9a55-0c6a3b1d2e4f"
OTHER = "11111111-2222-3333-4444-555555555555"


def load(folder: Path, text: str) -> ImageRecipe:
    (folder / "recipe.yaml").write_text(text)
    return recipe.load(folder / "recipe.yaml").images[0]


def boot(base: str, more: str = "") -> str:
    return f"images:\n  - name: web\n    method: boot\n    base: {base}\n{more}"


def install(iso: str) -> str:
    return (
        "images:\n  - name: web\n    method: install\n    machine: {disk: 2}\n    answers: {preseed: answers}\n"
        f"    iso: {iso}\n"
    )


@pytest.mark.parametrize(
    ("base", "canonical"),
    [
        ("{glance: debian-base}", {"glance": "debian-base"}),
        ("{glance: Debian 12 (x86)}", {"glance": "Debian 12 (x86)"}),
        (f"{{glance: {ID}}}", {"glance": ID}),
        ("{glance: d, properties: {}}", {"glance": "d"}),
        (
            "{glance: d, properties: {os_distro: debian, os_version: '12'}}",
            {"glance": "d", "properties": {"os_distro": "debian", "os_version": "12"}},
        ),
    ],
)
def test_a_base_and_an_iso_in_glance(tmp_path: Path, base: str, canonical: dict[str, Any]) -> None:
    assert load(tmp_path, boot(base)).canonical()["base"] == canonical
    (tmp_path / "answers").touch()
    assert load(tmp_path, install(base)).canonical()["iso"] == canonical


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("{glance: d, image: d}", "base: needs one of image, file, url, glance"),
        ("{glance: ''}", "base.glance: is not an image in Glance (its name or its id"),
        ("{glance: 12}", 'base.glance: 12 is a number, expected text (write it in quotes: "12")'),
        ("{image: d, properties: {a: b}}", "base: has properties without glance (they choose among images"),
        (f"{{glance: d, sha256: '{'0' * 64}'}}", "base: has a sha256 for an image in Glance (remove it"),
        ("{glance: d, checksums: SUMS}", "base: has checksums without a url"),
        (f"{{glance: {ID}, properties: {{a: b}}}}", "base: has properties, and names one image by its id"),
        ("{glance: d, properties: {status: queued}}", "'status' is not a property to choose an image by (such as"),
        ("{glance: d, properties: {a b: c}}", "'a b' is not a property to choose an image by"),
        ("{glance: d, property: {a: b}}", "base.property: there is no such key (did you mean 'properties'?)"),
    ],
)
def test_what_is_wrong_with_a_base_in_glance(tmp_path: Path, base: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, boot(base))
    assert "recipe.yaml:4: images[0].base" in str(caught.value) and problem in str(caught.value)


def test_a_name_can_be_watched_and_an_id_not(tmp_path: Path) -> None:
    watch = "    on: [{watch: base}]\n"
    assert load(tmp_path, boot("{glance: d}", watch)).canonical()["on"] == [{"watch": "base", "every": None}]
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, boot(f"{{glance: {ID}}}", watch))
    assert "recipe.yaml:5: images[0].on[0].watch: its base can't change: the recipe names it by its id" in str(
        caught.value
    )


def test_visibility_is_in_the_key_only_where_it_is_said(tmp_path: Path) -> None:
    silent = load(tmp_path, boot("{image: d}")).canonical()
    said = load(tmp_path, boot("{image: d}", "    publish: {visibility: community}\n")).canonical()
    assert silent["publish"] == {"name": "web", "keep": None, "properties": {}}
    assert said["publish"] == silent["publish"] | {"visibility": "community"}
    assert fingerprint.build_key(silent, {}) != fingerprint.build_key(said, {})
    with pytest.raises(RecipeError, match="did you mean 'public'"):
        load(tmp_path, boot("{image: d}", "    publish: {visibility: publick}\n"))


def test_the_pin_is_the_base_of_all_layers_and_the_reason_names_it(tmp_path: Path) -> None:
    canonical = load(tmp_path, boot("{glance: debian-base}", "    configure: [{packages: [nginx]}]\n")).canonical()
    old, new = (str(Pinned(id, "sha512:" + "ab" * 64)) for id in (ID, OTHER))
    one, other = (stages.stages(canonical, {"base:glance:debian-base": pin}) for pin in (old, new))
    assert {stage.key for stage in one}.isdisjoint(stage.key for stage in other)
    assert Pinned.of(old) == Pinned(ID, "sha512:" + "ab" * 64) and Pinned.of(old).digest == "ab" * 64
    assert [*fingerprint._pins({"base:glance:debian-base": old}, {"base:glance:debian-base": new})] == [
        "base glance debian-base 6f0e2b7c → 11111111"
    ]


def test_an_iso_in_glance_is_part_of_the_installed_system(tmp_path: Path) -> None:
    (tmp_path / "answers").touch()
    canonical = load(tmp_path, install("{glance: debian-netinst}")).canonical()
    pins = {"file:answers": "0" * 64, "iso:glance:debian-netinst": f"{ID}:sha512:{'0' * 128}"}
    one = stages.stages(canonical, pins)
    other = stages.stages(canonical, pins | {"iso:glance:debian-netinst": f"{OTHER}:sha512:{'0' * 128}"})
    assert one[0].key != other[0].key


@pytest.mark.parametrize("text", ["[store]\ndriver = glance\n", "[publish]\ntargets = prod=glance:prod\n"])
def test_properties_that_glance_would_refuse_are_refused_before_anything_is_built(tmp_path: Path, text: str) -> None:
    image = load(tmp_path, boot("{glance: d}", "    publish:\n      properties: {min_disk: ten}\n"))
    (tmp_path / "empty.conf").touch()
    precheck.check(
        image, tmp_path, configuration.load([str(tmp_path / "empty.conf")], str(tmp_path))
    )  # a folder takes it
    (tmp_path / "imageflow.conf").write_text(text)
    config = configuration.load([str(tmp_path / "imageflow.conf")], str(tmp_path))
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:6: images\[0\].publish.properties: min_disk is a number of GiB"
    ):
        precheck.check(image, tmp_path, config)
