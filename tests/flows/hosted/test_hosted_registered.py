"""Recipes are registered from a commit in git: whole, or not at all, and under names of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imageflow.errors import BadInput, Conflict, RecipeError
from imageflow.fetch import git as repository
from tests.flows.hosted.hosted_yard import settle
from tests.small.forge import IMAGE, Forge
from tests.small.polled import git
from tests.small.yard import Yard


def test_a_file_is_registered_from_its_commit(yard: Yard, forge: Forge) -> None:
    commit = git("rev-parse", "HEAD", at=forge.work)
    [done] = yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    assert (done.verdict, done.images, done.recipe.name) == ("added", ("web",), "web")
    assert done.recipe.repository == {
        "url": forge.url,
        "ref": "refs/heads/main",
        "path": "recipes/web.yaml",
        "commit": commit,
    }
    checkout = repository.place(yard.service.config, forge.url, commit)
    assert Path(done.recipe.path) == checkout / "recipes/web.yaml"
    assert sorted(path.name for path in checkout.iterdir()) == ["recipes"]
    assert [path.name for path in checkout.parent.iterdir()] == [commit]
    [again] = yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    assert (again.verdict, again.recipe.version) == ("unchanged", 1)
    assert yard.service.events.select() == [] and settle(yard) == []


def test_a_repository_in_sha256_and_one_without_shallow_fetches(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    new = tmp_path / "sha256"
    git("init", "--quiet", "--object-format=sha256", "--initial-branch=main", new)
    shutil.copytree(forge.work / "recipes", new / "recipes")
    git("add", "--all", at=new)
    git("commit", "--quiet", "--message", "x", at=new)
    [done] = yard.service.git_recipes.add("recipes/web.yaml", str(new))
    assert done.recipe.repository and len(done.recipe.repository["commit"]) == 64
    yard.service.recipes.remove("web")
    git("update-server-info", at=forge.bare)
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0", "--directory", forge.bare.parent],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split("port ")[1].split()[0]
            [done] = yard.service.git_recipes.add("recipes/web.yaml", f"http://127.0.0.1:{port}/infra.git")
        finally:
            server.terminate()
    assert done.verdict == "added"


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        ("../web.yaml", {}, "not a path in a repository"),
        ("/etc/web.yaml", {}, "not a path in a repository"),
        ("recipes/nothing.yaml", {}, "there is no recipes/nothing.yaml"),
        ("outside.yaml", {}, "leads out of the repository"),
        ("recipes/web.yaml", {"url": "https://user:pa55@git.example/infra"}, "credentials"),
        ("recipes/web.yaml", {"url": "ext::sh -c id"}, "no URL"),
        ("recipes/web.yaml", {"ref": "--upload-pack=id"}, "can't be followed"),
        ("recipes/web.yaml", {"ref": "a" * 40}, "a commit never changes"),
        ("recipes/web.yaml", {"ref": "nothing"}, "there is no refs/heads/nothing"),
        ("empty", {}, "no *.yaml"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(
    yard: Yard, forge: Forge, path: str, more: dict[str, str], says: str
) -> None:
    (forge.work / "outside.yaml").symlink_to("/etc/hostname")
    forge.write("empty/README", "")
    forge.push()
    with pytest.raises(BadInput, match=says.replace("*", r"\*")) as caught:
        yard.service.git_recipes.add(path, **{"url": forge.url, **more})
    assert "pa55" not in str(caught.value)
    assert yard.service.git_recipes.origins() == [] and yard.service.recipes.registered() == []


def test_a_bad_recipe_of_a_folder_registers_none_of_it(yard: Yard, forge: Forge) -> None:
    forge.write("recipes/bad.yaml", "images: 3\n")
    forge.push()
    with pytest.raises(RecipeError, match=r"^recipes/bad.yaml:1:"):
        yard.service.git_recipes.add("recipes", forge.url)
    assert yard.service.git_recipes.origins() == [] and yard.service.recipes.registered() == []


def test_no_hook_and_no_submodule_is_run_or_fetched(
    yard: Yard, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\n  hooksPath = {hooks}\n[submodule]\n  recurse = true\n[init]\n  templateDir = {hooks}\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    other = Forge(tmp_path / "other")
    other.write("secret", "x")
    other.push()
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.url, "sub", at=forge.work)
    commit = forge.push()
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    assert list((repository.place(yard.service.config, forge.url, commit) / "sub").iterdir()) == []
    assert not (tmp_path / "ran").exists()


def test_names_belong_to_one_origin(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    yard.service.git_recipes.add("recipes", forge.url)
    local = yard.site.folder / "web.yaml"
    local.write_text(IMAGE.format(name="other", more=""))
    (yard.site.folder / "other.motd").write_text("")
    with pytest.raises(Conflict, match="belongs to the folder"):
        yard.service.recipes.add(local, "infra/web")
    with pytest.raises(Conflict, match="belongs to the folder"):
        yard.service.recipes.remove("infra/web")
    with pytest.raises(Conflict, match="already"):
        yard.service.git_recipes.add("recipes/web.yaml", forge.url, name="infra")
    with pytest.raises(Conflict, match="'web' belongs to"):
        yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    assert yard.service.recipes.remove("infra") == ["web"]
    assert yard.service.git_recipes.origins() == []
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    yard.service.recipes.add(local)  # by hand, from now on
    assert yard.service.git_recipes.origins() == []
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)  # and back again
    assert yard.service.recipes.image("web")[0].version == 3
