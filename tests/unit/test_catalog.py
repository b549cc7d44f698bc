"""The catalog: what operators write, what a want becomes with it, and what is said when either is wrong."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from imageflow import config as configuration
from imageflow.errors import BadInput, ConfigError
from imageflow.recipe import ImageRecipe
from imageflow.wants.catalog import Catalog
from imageflow.wants.want import Want
from tests.small.program import ROOT

DEBIAN = """
description: Debian 12
takes: [packages, custom_files]
recipes:
  shell:
    harden:
      - shell: |
          sysctl -w kernel.dmesg_restrict=1
image:
  method: boot
  base: {url: "https://images.example/debian.qcow2", sha256: "%s"}
  configure:
    - packages: [ca-certificates]
  publish: {keep: 2, visibility: shared}
""" % ("0" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "debian.yaml").write_text(DEBIAN)
    return tmp_path


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    return made(folder)


def made(folder: Path, dib: bool = False) -> Catalog:
    config = configuration.load(state_dir=str(folder / "state"))
    return Catalog(dataclasses.replace(config, catalog=dataclasses.replace(config.catalog, path=folder, dib=dib)))


def change(folder: Path, old: str, new: str, name: str = "debian") -> None:
    file = folder / f"{name}.yaml"
    text = (file.read_text() if file.exists() else DEBIAN).replace(old, new)
    assert new in text
    file.write_text(text)


def image(catalog: Catalog, **said: Any) -> ImageRecipe:
    return catalog.image(Want(**{"os": "debian", **said}))


def test_what_is_wanted_follows_what_the_entry_has(catalog: Catalog) -> None:
    found = image(
        catalog,
        packages=["nginx", "curl"],
        custom_files=[{"path": "/etc/motd", "content": "hello"}],
        config_system="shell",
        recipe="harden",
    )
    kinds = [next(iter(step)) for step in found.configure]
    assert kinds == ["packages", "packages", "files", "shell"]
    assert found.configure[1]["packages"] == ["curl", "nginx"]
    assert found.configure[2]["files"][0]["content"] == "hello"
    assert found.publish.name == found.name and found.publish.keep == 2 and found.publish.visibility == "shared"
    assert found.made_from.url == "https://images.example/debian.qcow2"


def test_equal_wants_are_one_image_and_others_are_not(catalog: Catalog) -> None:
    one = image(catalog, packages=["nginx", "curl"])
    assert image(catalog, packages=["curl", "nginx", "curl"]) == one
    others = [
        image(catalog, packages=["curl"]),
        image(catalog),
        image(catalog, custom_files=[{"path": "/a", "content": "1"}]),
        image(catalog, custom_files=[{"path": "/a", "content": "2"}]),
        image(catalog, config_system="shell", recipe="harden"),
    ]
    names = {one.name, *(other.name for other in others)}
    assert len(names) == 6 and all(name.startswith("debian-") for name in names)


def test_another_entry_is_another_image_and_another_place_is_not(
    catalog: Catalog, folder: Path, tmp_path: Path
) -> None:
    before = image(catalog, packages=["nginx"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "debian.yaml").write_text("# a comment\n" + DEBIAN.replace("Debian 12", "of the other region"))
    assert image(made(elsewhere), packages=["nginx"]).name == before.name
    change(folder, "ca-certificates", "ca-certificates, jq")
    assert image(catalog, packages=["nginx"]).name != before.name


def test_an_entry_with_another_name_is_another_image(catalog: Catalog, folder: Path) -> None:
    (folder / "bookworm.yaml").write_text(DEBIAN)
    assert image(catalog, os="bookworm").name.startswith("bookworm-")
    assert [entry.os for entry in catalog.entries()[0]] == ["bookworm", "debian"]


def test_files_that_are_no_entries_are_left_out(catalog: Catalog, folder: Path) -> None:
    for name in (".hidden.yaml", "debian.yaml~", "notes.txt", "no name.yaml"):
        (folder / name).write_text("rubbish: [")
    assert [entry.os for entry in catalog.entries()[0]] == ["debian"]


def test_an_empty_catalog_says_what_it_is(tmp_path: Path) -> None:
    empty = made(tmp_path / "nothing")
    assert empty.entries() == ([], [])
    with pytest.raises(BadInput) as caught:
        image(empty)
    assert "[catalog] path" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ({"os": "debain"}, "no os 'debain'", "did you mean 'debian'"),
        ({"pip_packages": ["flask"]}, "takes no pip_packages", "packages, custom_files"),
        ({"config_system": "chef", "recipe": "web"}, "no recipe 'web' of chef", "shell: harden"),
        ({"config_system": "shell", "recipe": "weaken"}, "no recipe 'weaken' of shell", "shell: harden"),
    ],
)
def test_what_the_catalog_has_not_is_refused(catalog: Catalog, said: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        image(catalog, **said)
    assert type(caught.value) is BadInput, "the client's, not the operator's"
    assert what in caught.value.message and hint in caught.value.hint


def test_a_file_can_be_no_secret_of_the_host(catalog: Catalog) -> None:
    found = image(catalog, custom_files=[{"path": "/a", "content": "{secret: DATABASE} {{ password }}"}])
    assert found.configure[1]["files"] == [
        {"path": "/a", "content": "{secret: DATABASE} {{ password }}", "mode": "0644", "owner": "root:root"}
    ]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("method: boot", "method: boat", "debian.yaml:10: images[0].method"),
        ("method: boot", "method: boot\n  name: web", "image.name: can't be given here"),
        ("method: boot", "method: boot\n  'on': [{schedule: '@daily'}]", "image.on: can't be given here"),
        ("takes: [packages, custom_files]", "takes: [shell]", "takes: is not a list"),
        ("takes: [packages, custom_files]", "takes: packages", "takes: is not a list"),
        ("description: Debian 12", "descripton: Debian 12", "descripton: there is no such key"),
        ("image:", "imagee:", "there is no such key"),
        ("      - shell: |\n          sysctl -w kernel.dmesg_restrict=1\n", "        run: 1\n", "is a mapping"),
        ("      - shell: |\n          sysctl", "      - shel: |\n          sysctl", "recipe 'harden' of shell"),
        ("recipes:\n  shell:", "recipes:\n  - shell:", "recipes"),
        ("- packages: [ca-certificates]", "- shell: {run: x, environment: {DB_PASSWORD: hunter2}}", "in plain text"),
    ],
)
def test_a_wrong_entry_is_the_operators(catalog: Catalog, folder: Path, old: str, new: str, what: str) -> None:
    change(folder, old, new)
    (folder / "other.yaml").write_text(DEBIAN)
    with pytest.raises(ConfigError) as caught:
        image(catalog)
    assert what in caught.value.message and "'debian' can't be used" in caught.value.message
    entries, [told] = catalog.entries()
    assert str(told) == str(caught.value) and [entry.os for entry in entries] == ["other"]


def test_who_asks_becomes_root_on_the_build_host_only_if_the_operator_says_so(folder: Path) -> None:
    (folder / "tiny.yaml").write_text("image: {method: dib, dib: {elements: [base]}}")
    entries, [told] = made(folder).entries()
    assert [entry.os for entry in entries] == ["debian"]
    assert "could become root here" in told.message and "[catalog] dib" in told.hint
    with pytest.raises(ConfigError):
        image(made(folder), os="tiny")
    assert image(made(folder, dib=True), os="tiny").method == "dib"


def test_the_sample_can_be_used() -> None:
    sample = made(ROOT / "etc" / "catalog")
    [entry], wrong = sample.entries()
    assert not wrong and entry.os == "debian"
    found = image(sample, packages=["nginx"], config_system="shell", recipe="no-root-login")
    assert found.made_from.image == "debian", "which etc/recipes/debian.yaml makes"


def test_an_entry_is_read_again_when_it_has_changed(catalog: Catalog, folder: Path) -> None:
    assert catalog.entry("debian").description == "Debian 12"
    file = folder / "debian.yaml"
    before = file.stat()
    (folder / "new").write_text(DEBIAN.replace("Debian 12", "Debian 13"))
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").rename(file)
    assert catalog.entry("debian").description == "Debian 13", "the same size and time, another file"
    file.unlink()
    with pytest.raises(BadInput):
        catalog.entry("debian")
