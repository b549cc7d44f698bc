"""Elements and files: found as diskimage-builder finds them, pinned by what is in them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from diskimage_builder import paths

from imageflow import config, inputs, recipe
from imageflow.config import Config
from imageflow.errors import RecipeError, Refused
from imageflow.inputs import elements, files, tools
from imageflow.recipe import ImageRecipe


@pytest.fixture
def conf(tmp_path: Path) -> Config:
    """A configuration that reads no file of this machine."""
    file = tmp_path / "imageflow.conf"
    file.write_text(f"[dib]\nelements_path = {tmp_path}/site\n")
    (tmp_path / "site").mkdir()
    return config.load([str(file)], state_dir=str(tmp_path / "state"))


def image(folder: Path, text: str) -> ImageRecipe:
    file = folder / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    return recipe.load(file).images[0]


def element(folder: Path, name: str, *, deps: str = "", provides: str = "") -> Path:
    """A small element."""
    path = folder / name
    (path / "install.d").mkdir(parents=True)
    (path / "install.d" / "10-it").write_text("#!/bin/bash\n")
    if deps:
        (path / "element-deps").write_text(deps)
    if provides:
        (path / "element-provides").write_text(provides)
    return path


TINY = "- {imagename: tiny, skip-base: true, elements: [tiny], types: [raw]}\n"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder of a recipe whose only element makes a root by itself."""
    element(tmp_path / "elements", "tiny", provides="operating-system\n")
    return tmp_path


@pytest.mark.parametrize(
    "entry",
    [
        "elements: [debian-minimal, vm, openssh-server, cloud-init]",
        "elements: [ubuntu-minimal, vm, block-device-efi]",
        "elements: [fedora-container, simple-init, growroot]",
        "elements: [debian], skip-base: true",
        "elements: [vm debian-minimal]",
        "elements: [debian-minimal, vm], arch: arm64",
    ],
)
def test_the_same_elements_as_the_shell_script_resolves(entry: str, tmp_path: Path, conf: Config) -> None:
    """disk-image-create's own functions are run for the comparison."""
    made = image(tmp_path, f"- {{imagename: a, {entry}}}\n")
    lib = paths.get_path("lib")
    command = textwrap.dedent(f"""\
        set -e
        _LIB={lib} _BASE_ELEMENT_DIR={paths.get_path("elements")} IS_RAMDISK=0
        source $_LIB/img-defaults
        source $_LIB/common-functions
        SKIP_BASE={int(bool(made.dib.get("skip-base")))}
        arg_to_elements {" ".join(made.dib["elements"])} >/dev/null
        echo $IMAGE_ELEMENT
    """)
    environment = {
        "PATH": os.environ["PATH"],
        "DIB_PYTHON_EXEC": sys.executable,
        "HOME": str(tmp_path),
        "ARCH": made.dib.get("arch", "amd64"),
    }
    theirs = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    found = elements.used(made, elements.search_path(made, tmp_path, conf))
    ours = set(found) - set(elements.added(made))
    assert ours | {"manifests"} == set(theirs) | {"manifests"}
    assert all(path.is_dir() for path in found.values())


def test_the_search_path_in_its_order(tiny: Path, conf: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "mine"):
        (tiny / name).mkdir()
    monkeypatch.setenv("ELEMENTS_PATH", f"a:{tiny}/b:")
    here = [tiny / "elements", tiny / "site"]
    there = [elements.own_folder(), elements.stock_folder()]
    assert elements.search_path(image(tiny, TINY), tiny, conf) == [*here, tiny / "a", tiny / "b", *there]
    own = image(tiny, "- {imagename: a, elements: [tiny], environment: {ELEMENTS_PATH: mine}}\n")
    assert elements.search_path(own, tiny, conf) == [*here, tiny / "mine", *there]
    gone = image(tiny, "- imagename: a\n  elements: [tiny]\n  environment: {ELEMENTS_PATH: 'mine:gone'}\n")
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:3: \[0\].environment.ELEMENTS_PATH: the elements folder .*/gone"
    ):
        elements.search_path(gone, tiny, conf)


def test_an_element_in_an_earlier_folder_wins_quietly(
    tiny: Path, conf: Config, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    element(tiny / "elements", "vm", deps="tiny\n")
    made = image(tiny, "- {imagename: a, skip-base: true, elements: [vm]}\n")
    found = elements.used(made, elements.search_path(made, tiny, conf))
    assert found["vm"] == tiny / "elements" / "vm"
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_missing_element_says_where_it_looked(tiny: Path, conf: Config) -> None:
    made = image(tiny, "- imagename: a\n  elements:\n    - debian-minimal\n    - opensh-server\n")
    with pytest.raises(RecipeError) as caught:
        inputs.check(made, tiny, conf)
    said = str(caught.value)
    assert "recipe.yaml:4: [0].elements[1]: there is no element 'opensh-server' in ELEMENTS_PATH" in said
    assert "did you mean 'openssh-server'?" in said
    assert f"{tiny}/elements, {tiny}/site" in said
    assert caught.value.exit_code == 2


def test_a_missing_dependency_says_who_needs_it(tiny: Path, conf: Config) -> None:
    element(tiny / "elements", "needy", deps="nowhere\n")
    with pytest.raises(RecipeError, match="no element 'nowhere', which needy needs, in ELEMENTS_PATH"):
        inputs.pin(image(tiny, "- {imagename: a, elements: [tiny, needy]}\n"), tiny, conf)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("[vm]", "no element provides an operating system"),
        ("[debian-minimal, ubuntu-minimal]", "operating-system: already provided by"),
        ("[debian-minimal, operating-system]", "provide the same thing"),
    ],
)
def test_elements_that_can_not_be_together(listed: str, said: str, tmp_path: Path, conf: Config) -> None:
    with pytest.raises(RecipeError, match=said):
        inputs.pin(image(tmp_path, f"- {{imagename: a, elements: {listed}}}\n"), tmp_path, conf)


# -- what changes a digest -----------------------------------------------------------------------

CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda e: (e / "install.d/10-it").write_text("#!/bin/sh\n"),
    "same size": lambda e: (e / "install.d/10-it").write_text("#!/bin/bosh\n"[:-2] + "\n"),
    "name": lambda e: (e / "install.d/10-it").rename(e / "install.d/11-it"),
    "folder": lambda e: (e / "install.d").rename(e / "post-install.d"),
    "executable": lambda e: (e / "install.d/10-it").chmod(0o755),
    "new file": lambda e: (e / "new").write_text(""),
    "new folder": lambda e: (e / "new.d").mkdir(),
    "removed": lambda e: (e / "install.d/10-it").unlink(),
    "link": lambda e: (e / "link").symlink_to("x"),
    "link's target": lambda e: ((e / "inner").unlink(), (e / "inner").symlink_to("install.d/10-xx")),
    "content behind a link": lambda e: (e.parent / "outside").write_text("two"),
    "special": lambda e: os.mkfifo(e / "fifo"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = element(tmp_path, "it")
    (tmp_path / "outside").write_text("one")
    (path / "outer").symlink_to("../outside")
    (path / "inner").symlink_to("install.d/10-it")
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_an_element(change: str, tree: Path) -> None:
    before = elements.tree_digest(tree)
    assert elements.tree_digest(tree) == before
    CHANGES[change](tree)
    assert elements.tree_digest(tree) != before


def test_what_does_not_change_an_element(tree: Path) -> None:
    before = elements.tree_digest(tree)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x.pyc").write_text("x")
    (tree / "install.d" / "y.pyc").write_text("x")
    (tree / ".git").mkdir()
    os.utime(tree / "install.d/10-it", (0, 0))
    (tree / "install.d/10-it").chmod(0o600)
    assert elements.tree_digest(tree) == before
    moved = tree.rename(tree.with_name("other"))
    assert elements.tree_digest(moved) == before


def test_an_unreadable_element_is_said(tree: Path) -> None:
    with pytest.raises(Refused, match="can't be read: No such file"):
        elements.tree_digest(tree / "gone")


# -- files ---------------------------------------------------------------------------------------


def test_files_of_configure_and_of_the_environment(
    tiny: Path, conf: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "sources.list"
    outside.write_text("deb x y z")
    (tiny / "site.conf").write_text("a")
    (tiny / "sub").mkdir()
    (tiny / "sub/block.yaml").write_text("b")
    (tiny / "link").symlink_to("site.conf")
    made = image(
        tiny,
        f"""\
        images:
          - name: web
            method: dib
            dib:
              skip-base: true
              elements: [tiny]
              types: [raw]
              environment:
                DIB_APT_SOURCES: {outside}
                DIB_BLOCK_DEVICE_CONFIG: file://{tiny}/sub/block.yaml
                DIB_ALSO: sub/block.yaml
                DIB_WORD: site.conf
                DIB_FOLDER: /etc
                DIB_NO_FILE: /nowhere/at/all
                DIB_YAML: "- a: /b\\n- c"
                DIB_LONG: "{"/x" * 4000}"
            configure:
              - files:
                  - {{source: ./sub/../site.conf, path: /a}}
                  - {{source: link, path: /b}}
        """,
    )
    found = {name: value for name, value in inputs.pin(made, tiny, conf).items() if name.startswith("file:")}
    assert found == {
        f"file:{outside}": hashlib.sha256(b"deb x y z").hexdigest(),
        "file:site.conf": hashlib.sha256(b"a").hexdigest(),
        "file:link": hashlib.sha256(b"a").hexdigest(),
        "file:sub/block.yaml": hashlib.sha256(b"b").hexdigest(),
    }


def test_a_file_that_went_away_or_out_after_the_check(tiny: Path) -> None:
    (tiny / "site.conf").write_text("a")
    made = image(
        tiny,
        """\
        images:
          - name: web
            method: dib
            dib: {elements: [tiny]}
            configure:
              - files: [{source: site.conf, path: /a}]
        """,
    )
    (tiny / "site.conf").unlink()
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:6: images\[0\].configure\[0\].files\[0\].source: there is no file"
    ):
        files.named(made, tiny)
    (tiny / "site.conf").symlink_to("/etc/passwd")
    with pytest.raises(RecipeError, match="outside the recipe's folder"):
        files.named(made, tiny)
    stored = recipe.ImageRecipe.from_json(made.canonical())
    with pytest.raises(RecipeError, match=r"image web: configure\[0\].files\[0\].source"):
        files.named(stored, tiny)


# -- the whole -----------------------------------------------------------------------------------


def test_an_image_without_a_distribution_needs_no_network(tiny: Path, conf: Config) -> None:
    found = inputs.pin(image(tiny, TINY), tiny, conf)
    assert list(found) == sorted(found)
    assert found["archive"].startswith("unpinned: ")
    assert found["element:tiny"] == elements.tree_digest(tiny / "elements/tiny")
    assert set(found) >= {"architecture", "diskimage-builder", "imageflow"}
    assert not any(name.startswith("tool:") for name in found)


def test_only_used_elements_are_pinned_and_each_change_is_seen(tiny: Path, conf: Config) -> None:
    element(tiny / "elements", "unused")
    made = image(tiny, TINY)
    before = inputs.pin(made, tiny, conf)
    assert "element:unused" not in before
    (tiny / "elements/tiny/install.d/10-it").write_text("other")
    after = inputs.pin(made, tiny, conf)
    assert {name for name in after if after[name] != before[name]} == {"element:tiny"}
    assert inputs.local(made, tiny, conf) == {n: v for n, v in after.items() if n.startswith(("element:", "file:"))}


def test_tools(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tiny / "bin"
    programs.mkdir()
    counter = tiny / "count"

    def program(name: str, text: str) -> None:
        path = programs / name
        path.write_text(f"#!/bin/sh\necho x >> {counter}\necho '{text}'\necho more\n")
        path.chmod(0o755)

    program("qemu-img", "qemu-img version 9.9")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert [tools.version("qemu-img") for _ in range(3)] == ["9.9"] * 3
    assert counter.read_text().count("x") == 1
    program("qemu-img", "qemu-img version 10.0")
    assert tools.version("qemu-img") == "10.0"
    made = image(tiny, "- {imagename: a, elements: [tiny], types: [qcow2, squashfs, tar]}\n")
    assert tools.wanted(made, ["tiny"]) == ["qemu-img", "mksquashfs"]
    program("mmdebstrap", "mmdebstrap 1.2")
    assert tools.wanted(made, ["debootstrap"]) == ["qemu-img", "mksquashfs", "debootstrap", "mmdebstrap"]
    own = image(
        tiny, "- {imagename: a, elements: [x], types: [raw], environment: {DIB_DEBIAN_DEBOOTSTRAP_SCRIPT: /x}}\n"
    )
    assert tools.wanted(own, ["debootstrap"]) == ["debootstrap"]
    with pytest.raises(Refused, match="no-such-tool is not installed"):
        tools.version("no-such-tool")
