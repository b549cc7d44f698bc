"""Good recipes: what they become, in which form they are stored, and that diskimage-builder's are taken as they are."""

from __future__ import annotations

import copy
import json
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from diskimage_builder import diskimage_builder

from imageflow import recipe
from imageflow.errors import NotFound, RecipeError

EXAMPLE = Path(__file__).parents[2] / "etc" / "recipes" / "debian.yaml"


def load(folder: Path, text: str, settings: dict[str, str] | None = None) -> recipe.Recipe:
    file = folder / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    return recipe.load(file, settings)


def only(folder: Path, text: str, settings: dict[str, str] | None = None) -> dict[str, Any]:
    (image,) = load(folder, text, settings).images
    return image.canonical()


SMALL = """\
    images:
      - name: web
        method: dib
        dib:
          elements: [debian-minimal]
          environment: {DIB_RELEASE: bookworm}
"""


def test_defaults(tmp_path: Path) -> None:
    assert only(tmp_path, SMALL) == {
        "name": "web",
        "method": "dib",
        "dib": {"elements": ["debian-minimal"], "environment": {"DIB_RELEASE": "bookworm"}},
        "configure": [],
        "outputs": ["qcow2"],
        "publish": {"name": "web", "keep": None, "properties": {}},
        "on_failure": "pause",
        "timeout": {"build": None, "step": None},
        "on": [],
    }


def test_everything(tmp_path: Path) -> None:
    (tmp_path / "site.conf").write_text("server {}")
    text = """\
        images:
          - name: web
            method: dib
            dib: {elements: [debian-minimal], types: [tar]}
            configure:
              - packages: [nginx, "nginx-extras=1.22*"]
              - pip: [flask==3.1.*]
              - files:
                  - {source: ./site.conf, path: /etc//nginx/site.conf, mode: "0600", owner: root:www-data}
                  - {content: hello, path: /etc/motd}
              - users:
                  - {name: bob, uid: 1001, groups: [adm], shell: /bin/bash, sudo: true, password: {secret: BOB}}
                  - {name: eve, password: "$6$salt$0123456789abcdef", authorized_keys: [ssh-ed25519 AAAA eve]}
              - services: {enable: [nginx], disable: [apt-daily.timer]}
            outputs: [qcow2, kernel]
            publish: {name: shop, keep: 2, properties: {os_distro: debian}}
            on_failure: revert
            timeout: {build: 3600, step: 0.5}
    """
    found = only(tmp_path, text)
    assert found["configure"] == [
        {"packages": ["nginx", "nginx-extras=1.22*"]},
        {"pip": ["flask==3.1.*"]},
        {
            "files": [
                {"source": "site.conf", "path": "/etc/nginx/site.conf", "mode": "0600", "owner": "root:www-data"},
                {"content": "hello", "path": "/etc/motd", "mode": "0644", "owner": "root:root"},
            ]
        },
        {
            "users": [
                {
                    "name": "bob",
                    "uid": 1001,
                    "groups": ["adm"],
                    "shell": "/bin/bash",
                    "sudo": True,
                    "password": {"secret": "BOB"},
                    "authorized_keys": [],
                },
                {
                    "name": "eve",
                    "groups": [],
                    "password": "$6$salt$0123456789abcdef",
                    "sudo": False,
                    "authorized_keys": ["ssh-ed25519 AAAA eve"],
                },
            ]
        },
        {"services": {"enable": ["nginx"], "disable": ["apt-daily.timer"]}},
    ]
    assert found["outputs"] == ["qcow2", "kernel"]
    assert found["publish"] == {"name": "shop", "keep": 2, "properties": {"os_distro": "debian"}}
    assert found["on_failure"] == "revert"
    assert found["timeout"] == {"build": 3600, "step": 0.5}


def test_the_canonical_form_is_json_and_stays_what_it_is(tmp_path: Path) -> None:
    (image,) = load(tmp_path, SMALL).images
    stored = json.loads(json.dumps(image.canonical()))
    again = recipe.ImageRecipe.from_json(stored)
    assert again == image
    changed = image.canonical()
    changed["dib"]["elements"].append("vm")
    assert image.canonical() == again.canonical()


def test_the_example_is_good() -> None:
    image, web = recipe.load(EXAMPLE).images
    assert (image.name, web.name) == ("debian", "web")
    assert {"vm", "bootloader", "block-device-mbr"} <= set(image.dib["elements"])


def test_picking(tmp_path: Path) -> None:
    text = "images:\n" + "".join(f"  - {{name: {n}, method: dib, dib: {{elements: [vm]}}}}\n" for n in ("one", "two"))
    loaded = load(tmp_path, text)
    assert [image.name for image in loaded.pick()] == ["one", "two"]
    assert [image.name for image in loaded.pick(["two", "one", "two"])] == ["two", "one"]
    with pytest.raises(NotFound, match="did you mean 'two'") as caught:
        loaded.pick(["tow"])
    assert caught.value.exit_code == 2


def test_a_relative_path_has_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path)
    loaded = recipe.load(Path("recipe.yaml"))
    assert loaded.path == tmp_path / "recipe.yaml"
    assert loaded.folder == tmp_path


def test_outputs_come_from_types(tmp_path: Path) -> None:
    def outputs(entry: str) -> list[str]:
        found: list[str] = only(tmp_path, f"images: [{{name: a, method: dib, dib: {{elements: [vm], {entry}}}}}]")[
            "outputs"
        ]
        return found

    assert outputs("types: [raw, tar, raw]") == ["raw", "tar"]
    assert outputs("types: []") == ["qcow2"]
    assert outputs("types: [docker, tgz]") == ["tgz"]
    assert outputs("ramdisk: true") == ["kernel"]


# -- diskimage-builder's own definitions ---------------------------------------------------------

DEFINITIONS = {
    "one": "- imagename: a\n  elements: [debian-minimal, vm]\n",
    "default name": "- elements: [fedora]\n  types: [raw]\n",
    "several": "- imagename: a\n  elements: [x]\n- imagename: b\n  elements: [y]\n",
    "merged": (
        "- imagename: a\n  elements: [x]\n  environment: {A: '1', B: '1'}\n  image-size: 3\n"
        "- elements: [y]\n  environment: {B: '2'}\n- imagename: a\n  image-size: 4\n  arch: arm64\n"
    ),
    "interleaved": "- imagename: a\n  elements: [x]\n- imagename: b\n  elements: [y]\n- imagename: a\n  elements: [z]\n",
    "everything": (
        "- imagename: full\n  arch: amd64\n  types: [qcow2, tar]\n  environment: {DIB_RELEASE: noble}\n"
        "  debug-trace: 2\n  uncompressed: true\n  clear: false\n  logfile: x.log\n  checksum: true\n  image-size: 5\n"
        "  image-extra-size: 2\n  image-cache: /c\n  max-online-resize: 1000\n  min-tmpfs: 4\n  mkfs-journal-size: 64\n"
        "  mkfs-options: '-i 4096'\n  no-tmpfs: true\n  offline: true\n  qemu-img-options: {compat: '0.10'}\n"
        "  root-label: root\n  install-type: package\n  docker-target: a/b\n  packages: [vim, git]\n  skip-base: true\n"
        "  elements: [ubuntu-minimal]\n"
    ),
    "ramdisk": "- imagename: r\n  ramdisk: true\n  ramdisk-element: dracut-ramdisk\n  elements: [fedora, deploy-targetcli]\n",
    "anchors": (
        "- &base\n  imagename: a\n  elements: &e [x, y]\n  environment: &env {A: b}\n"
        "- imagename: b\n  elements: *e\n  environment: *env\n- imagename: c\n  <<: *base\n"
    ),
    "json": json.dumps([{"imagename": "j", "elements": ["x"], "environment": {"A": "b\nc"}}]),
    "names with types": "- imagename: out/a.qcow2\n  elements: [x]\n",
    "elements in one text": "- imagename: a\n  elements: ['vm ubuntu-minimal']\n",
    "docker besides": "- imagename: a\n  elements: [x]\n  types: [docker, tar]\n",
    "empty text": "- imagename: a\n  elements: [x]\n  root-label: ''\n  environment: {A: ''}\n",
    "whole number as a float": "- imagename: a\n  elements: [x]\n  image-size: 2.0\n",
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_bare_definition_file_gives_the_commands_that_diskimage_builder_makes(name: str, tmp_path: Path) -> None:
    text = DEFINITIONS[name]
    theirs = diskimage_builder.build_commands(yaml.safe_load(text))
    images = load(tmp_path, text).images
    ours = [
        command for image in images for command in diskimage_builder.build_commands([copy.deepcopy(dict(image.dib))])
    ]
    assert [(c.command(), c.environ) for c in ours] == [(c.command(), c.environ) for c in theirs]


@pytest.mark.parametrize("name", ["one", "merged", "everything", "ramdisk", "elements in one text", "empty text"])
def test_the_same_below_dib(name: str, tmp_path: Path) -> None:
    text = DEFINITIONS[name]
    (theirs,) = diskimage_builder.build_commands(yaml.safe_load(text))
    image = {"name": "ours", "method": "dib", "dib": yaml.safe_load(text)}
    (loaded,) = load(tmp_path, yaml.safe_dump({"images": [image]})).images
    (ours,) = diskimage_builder.build_commands([dict(loaded.canonical()["dib"])])
    assert (ours.command(), ours.environ) == (theirs.command(), theirs.environ)


def test_merging_does_not_reach_another_image_through_an_alias(tmp_path: Path) -> None:
    text = "- {imagename: a, elements: &e [x]}\n- {elements: [y]}\n- {imagename: b, elements: *e}\n"
    images = load(tmp_path, text).images
    assert [image.dib["elements"] for image in images] == [["x", "y"], ["x"]]


def test_names_of_a_bare_file(tmp_path: Path) -> None:
    images = load(tmp_path, "- {imagename: out/a.qcow2, elements: [x]}\n- {imagename: b.c, elements: [x]}\n").images
    assert [image.name for image in images] == ["a", "b.c"]


def test_a_problem_of_a_bare_file_is_named_as_it_stands_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "- {imagename: a, elements: [x]}\n- {imagename: b, elements: [y],\n   tpyes: [raw]}\n")
    assert str(caught.value).endswith(
        "recipe.yaml:3: [1].tpyes: diskimage-builder knows no such key (did you mean 'types'?)"
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml:1: \[0\].imagename: '-x' is not a usable name"):
        load(tmp_path, "- {imagename: -x, elements: [x]}\n")


def test_a_place_in_a_merged_definition(tmp_path: Path) -> None:
    text = """\
        - {imagename: a, elements: [x, y],
           environment: {A: '1', B: '1'}}
        - imagename: a
          elements:
            - z
          environment: {B: '2'}
    """
    (image,) = load(tmp_path, text).images

    def line(*path: str | int) -> str:
        return str(image.error(path, "x")).removeprefix(f"{tmp_path}/recipe.yaml:").split(":")[0]

    assert [line("dib", "elements", n) for n in range(3)] == ["1", "1", "5"]
    assert [line("dib", "environment", name) for name in "AB"] == ["2", "6"]
    assert line("dib", "nowhere") == "1"


def test_a_definition_without_elements_is_refused_where_another_entry_has_none_either(tmp_path: Path) -> None:
    assert only(tmp_path, "- {imagename: a, arch: amd64}\n- {elements: [x]}\n")["dib"]["elements"] == ["x"]


# -- secrets -------------------------------------------------------------------------------------


def test_secrets_are_references_in_the_canonical_form(tmp_path: Path) -> None:
    text = """\
        images:
          - name: web
            method: dib
            dib:
              - elements: [devuser]
                environment:
                  DIB_DEV_USER_PASSWORD: old-hunter2
                  DIB_DEV_USER_USERNAME: bob
              - environment:
                  DIB_DEV_USER_PASSWORD: hunter2
                  DB_PASS: hunter4
                  REG_KEY: {secret: ACTIVATION}
                  DIB_PASSWORDLESS_SUDO: "yes"
    """
    (image,) = load(tmp_path, text).images
    place = f"recipe:{tmp_path}/recipe.yaml#web"
    assert image.dib["environment"] == {
        "DIB_DEV_USER_PASSWORD": {"secret": f"{place}/DIB_DEV_USER_PASSWORD"},
        "DIB_DEV_USER_USERNAME": "bob",
        "DB_PASS": {"secret": f"{place}/DB_PASS"},
        "REG_KEY": {"secret": "ACTIVATION"},
        "DIB_PASSWORDLESS_SUDO": "yes",
    }
    assert "hunter2" not in repr(image) + json.dumps(image.canonical())
    assert recipe.plain_secret(tmp_path / "recipe.yaml", "web", "DIB_DEV_USER_PASSWORD") == "hunter2"
    known = {"ACTIVATION": "123"}
    environment = image.definition(lambda name: known.get(name, "resolved"))["environment"]
    assert environment["REG_KEY"] == "123"
    assert environment["DIB_DEV_USER_PASSWORD"] == "resolved"
    assert isinstance(image.dib["environment"]["REG_KEY"], dict), "the stored form must not change"


# -- settings ------------------------------------------------------------------------------------


def test_settings_replace_and_add(tmp_path: Path) -> None:
    found = only(
        tmp_path,
        SMALL,
        {
            "dib.environment.DIB_RELEASE": "trixie",
            "dib.environment.DIB_NUMBER": "12",
            "dib.elements": "[ubuntu-minimal, vm]",
            "dib.elements[1]": "bootloader",
            "dib.image-size": "4",
            "publish.keep": "5",
            "publish.properties.a.b": "true",
            "on_failure": "revert",
            "timeout.build": "60",
        },
    )
    assert found["dib"] == {
        "elements": ["ubuntu-minimal", "bootloader"],
        "environment": {"DIB_RELEASE": "trixie", "DIB_NUMBER": "12"},
        "image-size": 4,
    }
    assert found["publish"] == {"name": "web", "keep": 5, "properties": {"a.b": "true"}}
    assert (found["on_failure"], found["timeout"]["build"]) == ("revert", 60)


def test_a_setting_can_name_a_secret(tmp_path: Path) -> None:
    found = only(tmp_path, SMALL, {"dib.environment.MY_TOKEN": "{secret: MINE}"})
    assert found["dib"]["environment"]["MY_TOKEN"] == {"secret": "MINE"}


def test_a_setting_wins_over_all_entries_of_a_definition(tmp_path: Path) -> None:
    text = "- {imagename: a, elements: [x], environment: {A: '1'}}\n- {elements: [y], environment: {A: '2', B: '2'}}\n"
    found = only(tmp_path, text, {"dib.elements": "[z]", "dib.environment.A": "3"})
    assert found["dib"] == {"imagename": "a", "elements": ["z"], "environment": {"A": "3", "B": "2"}}


def test_a_setting_does_not_reach_what_an_alias_shares(tmp_path: Path) -> None:
    text = """\
        - {imagename: a, elements: [x], environment: &e {A: '1'}}
        - {imagename: b, elements: [x], environment: *e}
    """
    file = tmp_path / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    first, second = recipe.load(file, {"dib.environment.A": "2"}, ["b"]).images
    assert (first.dib["environment"]["A"], second.dib["environment"]["A"]) == ("1", "2")


# -- the schema for editors ----------------------------------------------------------------------


def test_the_schema_agrees_with_the_loader(tmp_path: Path) -> None:
    schema = recipe.schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    example = EXAMPLE.read_text().replace("    on:", '    "on":')  # PyYAML reads YAML 1.1, where on is a truth
    good = [yaml.safe_load(example), yaml.safe_load(textwrap.dedent(SMALL))]
    good += [yaml.safe_load(text) for text in DEFINITIONS.values()]
    assert [error.message for document in good for error in validator.iter_errors(document)] == []
    for spoil in (
        {"nmae": "x"},
        {"method": "boot"},
        {"dib": {"elements": "x"}},
        {"outputs": ["qcow"]},
        {"configure": [{"packages": []}]},
        {"configure": [{"users": [{"name": "a", "password": "plain"}]}]},
    ):
        bad = yaml.safe_load(textwrap.dedent(SMALL))
        bad["images"][0] |= spoil
        assert not validator.is_valid(bad), spoil
        with pytest.raises(RecipeError):
            load(tmp_path, yaml.safe_dump(bad))
