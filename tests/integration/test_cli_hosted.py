"""`imageflow recipe add --repository`, as a person uses it, and `imageflow serve` that follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.host import removal
from tests.small.forge import IMAGE, Forge
from tests.small.polled import until
from tests.small.program import Program

ELEMENTS = Path(__file__).parents[1] / "recipes" / "elements"


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge(tmp_path / "forge")
    made.image("web")
    made.image("db")
    made.push()
    return made


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    yield Program(
        tmp_path / "state",
        env={
            "OS_DIB__ELEMENTS_PATH": str(ELEMENTS),
            "OS_GIT__EVERY": "1",
            "OS_LISTENERS__ENABLED": "",
            "OS_CONDUCTOR__DRAIN_TIMEOUT": "0",
        },
    )
    removal.remove_tree(tmp_path / "state" / "builds")  # what a build that was begun has mounted


def test_a_file_and_a_folder_are_added_listed_and_removed(program: Program, forge: Forge) -> None:
    done = program.json("recipe", "add", "recipes/web.yaml", "--repository", forge.url, "--name", "site")
    assert (done["recipe"], done["version"], done["verdict"], done["images"]) == ("site", 1, "added", ["web"])
    assert program.run("recipe", "remove", "site").stdout == "site: removed; events no longer build web\n"
    said = program.run("recipe", "add", "recipes", "--repository", forge.url).stdout
    assert said == "infra/db: added, version 1 (db)\ninfra/web: added, version 1 (web)\n"
    rows = program.json("recipe", "list")
    assert [(row["recipe"], row["problem"]) for row in rows] == [("infra/db", None), ("infra/web", None)]
    assert rows[1]["from"].startswith(f"{forge.url} refs/heads/main recipes/web.yaml @ ")
    assert program.run("recipe", "remove", "infra").stdout == "infra: removed; events no longer build db, web\n"
    assert program.json("recipe", "list") == []


def test_what_is_wrong_names_its_place_and_changes_nothing(program: Program, forge: Forge) -> None:
    forge.write(
        "recipes/bad.yaml", "images:\n  - name: bad\n    method: dib\n    dib: {elements: [tiny]}\n    metod: x\n"
    )
    forge.push()
    done = program.run("recipe", "add", "recipes", "--repository", forge.url, expect=2)
    assert "recipes/bad.yaml:5: images[0].metod: there is no such key" in done.stderr
    for words, says in (
        (["--repository", forge.url, "--set", "publish.keep=1"], "--set can't be used"),
        (["--ref", "main"], "--ref has no effect"),
        (["--repository", "https://u:hunter2@git.example/x"], "credentials"),
    ):
        done = program.run("recipe", "add", "recipes/web.yaml", *words, expect=2)
        assert says in done.stderr and "hunter2" not in done.stderr + done.stdout
    assert program.json("recipe", "list") == []


def test_serve_follows(program: Program, forge: Forge, tmp_path: Path) -> None:
    program.run("recipe", "add", "recipes", "--repository", forge.url)
    log = tmp_path / "log"
    with log.open("w") as out:
        serve = program.start("serve", "--listen", "none", stdout=out, stderr=out)
    try:
        forge.write("recipes/db.yaml", "images: 3")
        forge.write("recipes/web.yaml", IMAGE.format(name="web", more="").replace("web.motd", "nothing.motd"))
        forge.push()
        until(lambda: all(row["problem"] for row in program.json("recipe", "list")), 60)
        assert program.json("event", "list", "--type", "imageflow.recipe.changed") == []
        forge.image("web", motd="1")
        forge.image("db")
        forge.push()
        until(lambda: program.json("event", "list", "--type", "imageflow.recipe.changed"), 60)
        [event] = program.json("event", "list", "--type", "imageflow.recipe.changed")
        assert event["subject"] == "infra/web"
        until(lambda: program.json("build", "list"), 60)
        assert [build["image"] for build in program.json("build", "list")] == ["web"]
        assert not any(row["problem"] for row in program.json("recipe", "list"))
        said = log.read_text()
        assert said.count("recipe infra/db at") == 1 and "Traceback" not in said
    finally:
        serve.terminate()
        serve.wait(60)
    assert json.dumps(program.json("recipe", "list", "--all")).count("infra/web") >= 2
