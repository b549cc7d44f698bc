"""The documents name paths, links and targets of make that exist."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "tests/cloud/README.md",
    *(f"doc/{page.name}" for page in sorted(ROOT.glob("doc/*.md"))),
]
NAMED = re.compile(r"(?<![\w./-])(?:imageflow|tests|doc|etc|bench|requirements|\.ci)/[\w./*-]*\w\b/?")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TREE = re.compile(r"^( *)([\w./]+(?: [\w]+/)*)(?: {2,}|$)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", makefile, re.M))


def layout(text: str) -> list[str]:
    """The paths of CONTRIBUTING's tree."""
    tree = text.partition("## Layout")[2].split("```")[1]
    found, parents = [], [""]
    for line in tree.splitlines():
        match = TREE.match(line)
        if match is None:
            continue
        depth = len(match[1]) // 2
        if depth >= len(parents):  # the continuation of a line
            continue
        names = match[2].split()
        found += [parents[depth] + name for name in names]
        parents[depth + 1 :] = [parents[depth] + names[0].removesuffix("/") + "/"]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_paths_in_a_document_exist(page: str) -> None:
    named = set(NAMED.findall((ROOT / page).read_text()))
    assert not [path for path in sorted(named) if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES)
def test_the_links_in_a_document_lead_somewhere(page: str) -> None:
    for link in LINK.findall((ROOT / page).read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        to = (ROOT / page).parent / path if path else ROOT / page
        assert to.exists(), link
        assert not anchor or anchor in anchors(to), link


@pytest.mark.parametrize("page", PAGES)
def test_the_targets_in_a_document_can_be_made(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", text, re.M)
    assert set(named) <= targets((ROOT / "Makefile").read_text())


def test_the_layout_is_the_tree_and_has_every_room() -> None:
    shown = layout((ROOT / "CONTRIBUTING.md").read_text())
    assert not [path for path in shown if not (ROOT / path).exists()]
    entries = [
        path for path in (ROOT / "imageflow").iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"
    ]
    rooms = {f"imageflow/{path.name}{'/' * path.is_dir()}" for path in entries} - {"imageflow/__init__.py"}
    assert rooms <= set(shown)


def test_the_markers_are_those_that_pytest_knows() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    known = re.findall(r"^(\w+)", setup["tool:pytest"]["markers"].strip(), re.M)
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| marker | means |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.M)) == sorted(known)


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    assert NAMED.findall("see `imageflow/gone.py` and tests/unit/, not https://x.org/doc/a or my/etc/b") == [
        "imageflow/gone.py",
        "tests/unit/",
    ]
    page = tmp_path / "page.md"
    page.write_text("# One\n## Two: what's `[three]`\n")
    assert anchors(page) == {"one", "two-whats-three"}
    assert layout("## Layout\n```\na/\n  b/   x\n    c.py   y\n  d/ e/  z\n```") == [
        "a/",
        "a/b/",
        "a/b/c.py",
        "a/d/",
        "a/e/",
    ]
