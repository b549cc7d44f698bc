"""Recipes of people who come from other tools: what they write is told in our words."""

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import pytest

from imageflow import config as configuration
from imageflow import inputs, recipe
from imageflow.builds import precheck
from imageflow.errors import RecipeError
from imageflow.inputs.stages import stages
from imageflow.recipe import editor_schema
from tests.unit.test_recipe_malformed import message

BOOT = "images:\n  - name: web\n    method: boot\n    base: {image: debian}\n"
DIB = "images:\n  - name: web\n    method: dib\n    dib:\n      elements: [debian-minimal]\n"


def test_a_list_of_images_without_its_key(tmp_path: Path) -> None:
    said = message(tmp_path, "- name: web\n  method: boot\n  base: {image: debian}\n")
    assert "recipe.yaml:1: is a list of images" in said
    assert "write 'images:' above the list" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DIB + "      env-vars: {A: b}\n", "diskimage-builder says 'environment:'"),
        (DIB + "      release: bookworm\n", "environment: {DIB_RELEASE: NAME}"),
        (DIB + "      formats: [qcow2]\n", "'types:'"),
        (DIB + "    rebuild-age: 86400\n", "schedule"),
        ("diskimages:\n  - name: x\n", "'images:'"),
        ("builders: []\n", "'images:'"),
        (BOOT + "    provisioners: []\n", "'configure:'"),
        (BOOT + "    ssh_username: root\n", "machine: {user: NAME}"),
        (BOOT + "    configure: [{shell: {inline: [a, b]}}]\n", "'- shell: |'"),
        (BOOT + "    configure: [{shell: {script: a.sh}}]\n", "shell: {source: FILE}"),
        (BOOT + "    configure: [{apt: {name: nginx}}]\n", "packages: [NAME]"),
        (BOOT + "    configure: [{shell: {run: x, expect_disconnect: true}}]\n", "reboot: true"),
        (BOOT + "    configure: [{files: [{src: a, dest: /b}]}]\n", "'source:'"),
        (BOOT + "    customizations: {}\n", "'configure:'"),
        (BOOT + "    tasks: []\n", "ansible: {playbook: FILE}"),
    ],
)
def test_the_words_of_other_tools(tmp_path: Path, text: str, words: str) -> None:
    assert words in message(tmp_path, text)


def test_commands_in_a_list(tmp_path: Path) -> None:
    said = message(tmp_path, BOOT + "    configure: [{shell: [apt update, apt upgrade]}]\n")
    assert "configure[0].shell: is a list, expected text (write 'shell: |'" in said


def test_a_key_with_a_line_end(tmp_path: Path) -> None:
    text = BOOT + '    configure: [{users: [{name: ops, authorized_keys: ["ssh-ed25519 AAAA ops\\n"]}]}]\n'
    assert "without a line end" in message(tmp_path, text)


def test_keys_for_anchors(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("x-small: &small {vcpus: 1, memory: 512}\n" + BOOT + "    machine: *small\n")
    assert recipe.load(file).images[0].machine.memory == 512
    document = {"x-small": {"vcpus": 1}, "images": [{"name": "a", "method": "boot", "base": {"image": "b"}}]}
    jsonschema.validate(document, editor_schema.schema())
    assert "there is no such key" in message(tmp_path, "y-small: 1\n" + BOOT)


# -- reboots ---------------------------------------------------------------------------------------


def canonical(folder: Path, text: str) -> dict[str, object]:
    (folder / "recipe.yaml").write_text(text)
    return recipe.load(folder / "recipe.yaml").images[0].canonical()


def test_reboots_in_a_recipe(tmp_path: Path) -> None:
    steps = "    configure: [{shell: {run: x, reboot: true}}, {reboot: {}}, {shell: {run: y, reboot: false}}]\n"
    data = canonical(tmp_path, BOOT + steps)
    assert data["configure"] == [
        {"shell": {"run": "x", "environment": {}, "reboot": True}},
        {"reboot": {}},
        {"shell": {"run": "y", "environment": {}}},
    ]
    titles = [stage.name for stage in stages(data, {"base:image:debian": "d"})]
    assert titles == ["fetch-base", "configure-01-shell", "configure-02-reboot", "configure-03-shell"]
    validator = jsonschema.Draft202012Validator(editor_schema.schema())
    step = {"images": [{"name": "a", "method": "boot", "base": {"image": "b"}, "configure": [{"reboot": {}}]}]}
    validator.validate(step)


def test_a_check_does_not_reboot(tmp_path: Path) -> None:
    said = message(tmp_path, BOOT + "    verify: [{shell: {run: x, reboot: true}}]\n")
    assert "verify[0]: reboots the machine that it checks" in said


def test_a_reboot_belongs_to_machines(tmp_path: Path) -> None:
    assert "reboot: there is no such key" in message(tmp_path, DIB + "    configure: [{reboot: {}}]\n")


# -- block devices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("'[{mkfs: '", "is not YAML"),
        ("'no list'", "is not a list"),
        ("'- mkfs\\n'", "entry 1 is not one plugin's name"),
        ("file:///nowhere/at/all.yaml", "/nowhere/at/all.yaml: No such file"),
    ],
)
def test_broken_block_devices_are_found_before_the_build(tmp_path: Path, value: str, words: str) -> None:
    (tmp_path / "recipe.yaml").write_text(DIB + f"      environment: {{DIB_BLOCK_DEVICE_CONFIG: {value}}}\n")
    [image] = recipe.load(tmp_path / "recipe.yaml").images
    with pytest.raises(RecipeError) as caught:
        precheck.check(image, tmp_path, configuration.load(state_dir=str(tmp_path / "state")))
    assert words in caught.value.message
    assert "DIB_BLOCK_DEVICE_CONFIG" in caught.value.message


# -- links -----------------------------------------------------------------------------------------

SALT = "    configure: [{salt: {states: states, apply: web}}]\n"


def with_links(folder: Path, make: str) -> recipe.ImageRecipe:
    (folder / "states/web").mkdir(parents=True)
    (folder / "states/web/init.sls").write_text("{}")
    (folder / "elsewhere").mkdir()
    links = {"folder": "web", "file": "web/init.sls", "nowhere": "gone", "circle": ".", "outside": "../elsewhere"}
    if make in links:
        (folder / "states/link").symlink_to(links[make])
    elif make == "pipe":
        os.mkfifo(folder / "states/link")
    (folder / "recipe.yaml").write_text(BOOT + SALT)
    [image] = recipe.load(folder / "recipe.yaml").images
    return image


@pytest.mark.parametrize(
    ("make", "pinned"),
    [
        ("folder", {"file:states/web/init.sls", "file:states/link/init.sls"}),
        ("file", {"file:states/web/init.sls", "file:states/link"}),
    ],
)
def test_links_are_followed(tmp_path: Path, make: str, pinned: set[str]) -> None:
    image = with_links(tmp_path, make)
    settings = configuration.load(state_dir=str(tmp_path / "state"))
    inputs.check(image, tmp_path, settings)
    assert set(inputs.local(image, tmp_path, settings)) == pinned


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("nowhere", "states/link is a link that leads nowhere"),
        ("circle", "states/link leads back to a folder that it is in"),
        ("outside", "states/link leads out of its folder"),
        ("pipe", "states/link is neither a file nor a folder"),
    ],
)
def test_what_can_not_be_copied_is_told_at_validate(tmp_path: Path, make: str, words: str) -> None:
    image = with_links(tmp_path, make)
    with pytest.raises(RecipeError) as caught:
        inputs.check(image, tmp_path, configuration.load(state_dir=str(tmp_path / "state")))
    assert words in caught.value.message
    assert caught.value.hint


def test_links_without_end_are_bounded(tmp_path: Path) -> None:
    """Each folder has ten links to the next: ten thousand million paths."""
    deep = tmp_path / "states"
    for level in range(10):
        (tmp_path / f"states/{level}").mkdir(parents=True)
        (tmp_path / f"states/{level}/file").touch()
        for link in range(10):
            (tmp_path / f"states/{level}/{link}").symlink_to(f"../{level + 1}")
    (deep / "10").mkdir()
    (deep / "10/file").touch()
    (tmp_path / "recipe.yaml").write_text(BOOT + SALT)
    [image] = recipe.load(tmp_path / "recipe.yaml").images
    with pytest.raises(RecipeError, match="more than 100000 files"):
        inputs.check(image, tmp_path, configuration.load(state_dir=str(tmp_path / "state")))
