"""Recipes that live in git: registered from a commit, followed to the next one, built from what it has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageflow import config, hosted, recipe_events, repository
from imageflow.control import Control
from imageflow.dispatcher import Dispatcher
from imageflow.errors import BadInput, Conflict, RecipeError, Refused, Unavailable
from imageflow.following import Following
from imageflow.hosted import Hosted
from imageflow.model import BuildState, Event, Outcome, Verdict
from imageflow.repository import Idle
from imageflow.service import Service
from imageflow.signals import Flag
from tests.pollers import git
from tests.small.yard import Yard, open_yard

IMAGE = """
images:
  - name: {name}
    method: dib
    dib: {{elements: [tiny], skip-base: true{more}}}
    configure: [{{files: [{{path: /etc/motd, source: {name}.motd}}]}}]
    on: [{{schedule: "0 3 * * *"}}]
"""


class Forge:
    """A repository that somebody works on, and that others fetch from."""

    def __init__(self, folder: Path) -> None:
        self.bare = folder / "acme" / "infra.git"
        self.work = folder / "work"
        git("init", "--quiet", "--bare", "--initial-branch=main", self.bare)
        git("init", "--quiet", "--initial-branch=main", self.work)
        self.url = f"file://{self.bare}"

    def write(self, name: str, text: str | None) -> None:
        file = self.work / name
        if text is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def image(self, name: str, motd: str = "0", more: str = "", folder: str = "recipes") -> None:
        self.write(f"{folder}/{name}.yaml", IMAGE.format(name=name, more=more))
        self.write(f"{folder}/{name}.motd", motd)

    def push(self, *words: str, branch: str = "main") -> str:
        """Commit what was written; -> the commit."""
        git("add", "--all", at=self.work)
        git("commit", "--quiet", "--allow-empty", "--message", "a change", at=self.work)
        git("push", "--quiet", *words, self.bare, f"HEAD:refs/heads/{branch}", at=self.work)
        return git("rev-parse", "HEAD", at=self.work)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge(tmp_path / "forge")
    made.image("web")
    made.push()
    return made


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    url = f"sqlite:///{tmp_path}/state/imageflow.db"
    with open_yard(tmp_path / "yard", url, monkeypatch) as yard:
        yield yard


@pytest.fixture
def any_yard(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """On each kind of database."""
    with open_yard(tmp_path / "yard", database_url, monkeypatch) as yard:
        yield yard


def settle(yard: Yard) -> list[str]:
    """Let everything happen; -> the images that builds began of, in order."""
    before = {build.id for build in yard.service.builds(limit=1000)}
    yard.settle()
    return [build.image for build in yard.service.builds(limit=1000)[::-1] if build.id not in before]


def look(yard: Yard, name: str) -> list[str]:
    return yard.service.hosted.look(name, Control())


def changes(yard: Yard) -> list[Event]:
    return yard.service.events.select(type=recipe_events.CHANGED)[::-1]


def test_a_file_is_registered_from_its_commit(yard: Yard, forge: Forge) -> None:
    commit = git("rev-parse", "HEAD", at=forge.work)
    [done] = yard.service.hosted.add("recipes/web.yaml", forge.url)
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
    [again] = yard.service.hosted.add("recipes/web.yaml", forge.url)
    assert (again.verdict, again.recipe.version) == ("unchanged", 1)
    assert yard.service.events.select() == [] and settle(yard) == []


def test_a_commit_rebuilds_what_it_changes_and_nothing_else(any_yard: Yard, forge: Forge) -> None:
    yard = any_yard
    forge.image("db")
    before = forge.push()
    yard.service.hosted.add("recipes", forge.url)
    assert look(yard, "infra") == []
    forge.image("web", motd="1")
    after = forge.push()
    assert look(yard, "infra") == ["infra/web"]
    assert settle(yard) == ["web"]
    [event] = changes(yard)
    assert (event.subject, event.source, event.verdict) == ("infra/web", "imageflow:recipes", Verdict.MATCHED)
    assert yard.outcomes(event.seq) == {"web": Outcome.CREATED}
    [build] = yard.service.builds()
    assert build.reason.startswith(f"recipe web.yaml of infra changed: {before[:8]} → {after[:8]}: ")
    versions = {recipe.name: (recipe.version, recipe.repository) for recipe in yard.service.recipes.registered()}
    assert (versions["infra/web"][0], versions["infra/db"][0]) == (2, 1)
    assert {told["commit"] for _version, told in versions.values() if told} == {after}
    assert look(yard, "infra") == []


def test_a_commit_without_a_change_moves_the_recipe_and_keeps_its_builds(yard: Yard, forge: Forge) -> None:
    """Neither the checkout's name nor the place of a plain secret is part of what is built."""
    forge.image("web", more=", environment: {DIB_PASSWORD: s3cret, DIB_MORE: ../shared/more.cfg}")
    forge.write("shared/more.cfg", "more")
    forge.push()
    yard.service.hosted.add("recipes", forge.url)
    forge.image("web", motd="1", more=", environment: {DIB_PASSWORD: s3cret, DIB_MORE: ../shared/more.cfg}")
    forge.push()
    assert look(yard, "infra") == ["infra/web"] and settle(yard) == ["web"]
    [build] = yard.service.builds()
    pins = yard.service.build(build.id).pins
    assert "file:../shared/more.cfg" in pins and not any(str(yard.site.folder) in name for name in pins)
    forge.write("README", "nothing that is built")
    commit = forge.push()
    assert look(yard, "infra") == []
    [recipe] = yard.service.recipes.registered()
    assert recipe.version == 2 and recipe.repository and recipe.repository["commit"] == commit
    assert commit in recipe.path and commit in str(recipe.images) and "s3cret" not in str(recipe.images)
    assert settle(yard) == [] and len(changes(yard)) == 1
    [receipt] = yard.inbox.receive(
        [Event("imageflow:schedule", "1", "imageflow.schedule", "web", data={"schedule": "0 3 * * *"})],
        listener="schedule",
    )
    assert settle(yard) == []
    assert yard.outcomes(receipt.event.seq) == {"web": Outcome.REUSED}
    forge.write("shared/more.cfg", "other")
    forge.push()
    assert look(yard, "infra") == ["infra/web"] and settle(yard) == ["web"]


def test_files_of_a_folder_come_and_go(yard: Yard, forge: Forge) -> None:
    forge.write("recipes/.hidden.yaml", "no recipe")
    forge.push()
    yard.service.hosted.add("recipes", forge.url, name="ours")
    forge.image("db")
    forge.write("recipes/web.yaml", None)
    forge.push()
    assert look(yard, "ours") == ["ours/db"]
    assert [recipe.name for recipe in yard.service.recipes.registered()] == ["ours/db"]
    assert settle(yard) == ["db"]
    gone = next(event for event in changes(yard) if event.subject == "ours/web")
    assert gone.verdict is Verdict.NO_TRIGGER and gone.data["version"] is None
    assert "new in" in yard.service.builds(image="db")[0].reason
    shutil.rmtree(forge.work / "recipes")
    forge.push()
    assert look(yard, "ours") == []
    assert [recipe.name for recipe in yard.service.recipes.registered()] == ["ours/db"]
    assert "there is no recipes" in yard.service.hosted.problems()["ours"]


def test_an_image_may_move_from_file_to_file(yard: Yard, forge: Forge) -> None:
    forge.image("db")
    forge.push()
    yard.service.hosted.add("recipes", forge.url)
    web, db = ((forge.work / f"recipes/{name}.yaml").read_text() for name in ("web", "db"))
    forge.write("recipes/web.yaml", db)
    forge.write("recipes/db.yaml", web)
    forge.push()
    assert sorted(look(yard, "infra")) == ["infra/db", "infra/web"]
    assert yard.service.recipes.image("web")[0].name == "infra/db"
    forge.write("recipes/db.yaml", db)
    forge.push()
    assert look(yard, "infra") == []  # both would have it
    assert "image 'db' belongs to" in yard.service.hosted.problems()["infra"]
    assert yard.service.recipes.image("web")[0].name == "infra/db"


def test_a_commit_that_is_not_right_changes_nothing_and_says_so_once(
    yard: Yard, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    forge.image("db")
    before = forge.push()
    yard.service.hosted.add("recipes", forge.url)
    forge.write(
        "recipes/web.yaml",
        IMAGE.format(name="web", more="").replace(
            "images:", "images:\n  - name: x\n    method: dib\n    dib: {elements: [tiny]}\n    methid: dib"
        ),
    )
    forge.image("db", motd="1")
    forge.push()
    assert look(yard, "infra") == ["infra/db"]
    assert settle(yard) == ["db"]
    assert look(yard, "infra") == []
    problem = yard.service.hosted.problems()["infra/web"]
    assert problem.startswith("recipes/web.yaml:6: images[0].methid:")
    assert len([record for record in caplog.records if "can't be registered" in record.getMessage()]) == 1
    [event] = yard.service.events.select(verdict=Verdict.QUARANTINED)
    assert (event.subject, event.type) == ("infra/web", recipe_events.INVALID) and problem in (event.reason or "")
    current = yard.service.recipes.image("web")[0]
    assert current.repository and current.repository["commit"] == before
    forge.image("web", motd="1")
    forge.push()
    assert look(yard, "infra") == ["infra/web"]
    assert yard.service.hosted.problems() == {}
    assert settle(yard) == ["web"]


def test_back_and_forth_are_two_changes(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    second = forge.push()
    assert look(yard, "web") == ["web"]
    git("push", "--quiet", "--force", forge.bare, f"{first}:refs/heads/main", at=forge.work)
    assert look(yard, "web") == ["web"]
    git("push", "--quiet", forge.bare, f"{second}:refs/heads/main", at=forge.work)
    assert look(yard, "web") == ["web"]
    assert [event.id.partition("#")[2] for event in changes(yard)] == ["2", "3", "4"]


def test_a_push_is_waited_for_and_not_built_twice(yard: Yard, forge: Forge) -> None:
    """The image wants the push itself, too: it is built once, from the pushed commit."""
    text = IMAGE.format(name="web", more="").replace(
        'schedule: "0 3 * * *"', "event: git.push, where: {repository: infra}"
    )
    forge.write("recipes/web.yaml", text)
    before = forge.push()
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.write("recipes/web.motd", "1")
    after = forge.push()
    data = {"repository": "infra", "owner": "acme", "ref": "refs/heads/main", "before": before, "after": after}
    yard.inbox.receive([Event("https://git.example/acme/infra", "1", "git.push", data=data)], listener="http")
    assert settle(yard) == []
    assert yard.held() == {"web": "waits for what was pushed to its recipe, of web"}
    stop = Flag()
    following = Following(yard.service.config, yard.service.hosted, tick=0.05)
    thread = threading.Thread(target=following.run, args=(stop,))
    thread.start()
    try:
        yard.site.await_that(lambda: changes(yard))
        yard.site.await_that(lambda: all(one.asked == one.looked for one in yard.service.hosted.origins()))
    finally:
        stop.set()
        thread.join(30)
    assert settle(yard) == ["web"]
    [build] = yard.service.builds()
    assert "git.push of refs/heads/main" in build.reason and "recipe web.yaml of infra changed" in build.reason
    yard.inbox.receive([Event("https://git.example/acme/infra", "2", "git.push", data=data)], listener="http")
    assert settle(yard) == []


def test_a_repository_that_is_away_holds_nobody_up(yard: Yard, forge: Forge) -> None:
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    aside = forge.bare.with_name("aside")
    forge.bare.rename(aside)
    push = {"repository": "infra", "owner": "", "ref": "refs/heads/main", "after": "f" * 40}
    yard.inbox.receive([Event("x", "1", "git.push", data=push)], listener="http")
    yard.dispatcher.once()
    assert [one.asked - one.looked for one in yard.service.hosted.origins()] == [1]
    with pytest.raises(Unavailable):
        look(yard, "web")
    assert [one.asked - one.looked for one in yard.service.hosted.origins()] == [0]
    assert "can't be looked at" in yard.service.hosted.problems()["web"]
    aside.rename(forge.bare)
    assert look(yard, "web") == [] and yard.service.hosted.problems() == {}


def test_a_change_can_be_replayed(yard: Yard, forge: Forge) -> None:
    yard.service.hosted.add("recipes", forge.url)
    forge.image("web", motd="1")
    forge.push()
    look(yard, "infra")
    [event] = changes(yard)
    assert settle(yard) == ["web"]
    yard.service.events.replay(event.seq)
    assert settle(yard) == [] and yard.outcomes(event.seq) == {"web": Outcome.REUSED}
    yard.service.recipes.remove("infra")
    yard.service.events.replay(event.seq)
    yard.dispatcher.once()
    assert yard.service.events.get(event.seq)[0].verdict is Verdict.NO_TRIGGER


def test_a_tag_that_moves_is_followed(yard: Yard, forge: Forge) -> None:
    def tag() -> None:
        git("tag", "--force", "--annotate", "--message", "x", "stable", at=forge.work)
        git("push", "--quiet", "--force", forge.bare, "refs/tags/stable", at=forge.work)

    tag()
    [done] = yard.service.hosted.add("recipes/web.yaml", forge.url, "refs/tags/stable")
    assert done.recipe.repository and done.recipe.repository["commit"] == git("rev-parse", "HEAD", at=forge.work)
    forge.image("web", motd="1")
    forge.push()
    assert look(yard, "web") == []
    tag()
    assert look(yard, "web") == ["web"]


def test_a_repository_in_sha256_and_one_without_shallow_fetches(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    new = tmp_path / "sha256"
    git("init", "--quiet", "--object-format=sha256", "--initial-branch=main", new)
    shutil.copytree(forge.work / "recipes", new / "recipes")
    git("add", "--all", at=new)
    git("commit", "--quiet", "--message", "x", at=new)
    [done] = yard.service.hosted.add("recipes/web.yaml", str(new))
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
            [done] = yard.service.hosted.add("recipes/web.yaml", f"http://127.0.0.1:{port}/infra.git")
        finally:
            server.terminate()
    assert done.verdict == "added"


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        ("../web.yaml", {}, "no path in a repository"),
        ("/etc/web.yaml", {}, "no path in a repository"),
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
        yard.service.hosted.add(path, **{"url": forge.url, **more})
    assert "pa55" not in str(caught.value)
    assert yard.service.hosted.origins() == [] and yard.service.recipes.registered() == []


def test_a_bad_recipe_of_a_folder_registers_none_of_it(yard: Yard, forge: Forge) -> None:
    forge.write("recipes/bad.yaml", "images: 3\n")
    forge.push()
    with pytest.raises(RecipeError, match=r"^recipes/bad.yaml:1:"):
        yard.service.hosted.add("recipes", forge.url)
    assert yard.service.hosted.origins() == [] and yard.service.recipes.registered() == []


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
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    assert list((repository.place(yard.service.config, forge.url, commit) / "sub").iterdir()) == []
    assert not (tmp_path / "ran").exists()


def test_names_belong_to_one_origin(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    yard.service.hosted.add("recipes", forge.url)
    local = yard.site.folder / "web.yaml"
    local.write_text(IMAGE.format(name="other", more=""))
    (yard.site.folder / "other.motd").write_text("")
    with pytest.raises(Conflict, match="belongs to the folder"):
        yard.service.recipes.add(local, "infra/web")
    with pytest.raises(Conflict, match="belongs to the folder"):
        yard.service.recipes.remove("infra/web")
    with pytest.raises(Conflict, match="already"):
        yard.service.hosted.add("recipes/web.yaml", forge.url, name="infra")
    with pytest.raises(Conflict, match="'web' belongs to"):
        yard.service.hosted.add("recipes/web.yaml", forge.url)
    assert yard.service.recipes.remove("infra") == ["web"]
    assert yard.service.hosted.origins() == []
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    yard.service.recipes.add(local)  # by hand, from now on
    assert yard.service.hosted.origins() == []
    yard.service.hosted.add("recipes/web.yaml", forge.url)  # and back again
    assert yard.service.recipes.image("web")[0].version == 3


def test_checkouts_go_when_nothing_needs_them(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    forge.write("recipes/trace/fail-web", "")  # read by the quick flow
    second = forge.push()
    look(yard, "web")
    assert settle(yard) == ["web"]
    [paused] = yard.service.builds(states=[BuildState.PAUSED])
    forge.image("web", motd="2")
    third = forge.push()
    look(yard, "web")
    folder = yard.service.config.checkouts_dir
    (folder / "infra-x" / ".new-killed").mkdir(parents=True)
    idle, patient = Idle(replace_timeout(yard), linger=0.0), Idle(yard.service.config)

    def left() -> set[str]:
        return {path.name for path in folder.glob("*/*")}

    assert patient.collect(yard.service.hosted.used()) == [] and left() == {first, second, third, ".new-killed"}
    idle.collect(yard.service.hosted.used())
    assert left() == {second, third}
    yard.service.abort(paused.id)
    yard.work()
    idle.collect(yard.service.hosted.used())
    assert left() == {third}
    yard.service.recipes.remove("web")
    idle.collect(yard.service.hosted.used())
    assert list(folder.iterdir()) == []


def replace_timeout(yard: Yard) -> Any:
    return replace(yard.service.config, git=replace(yard.service.config.git, fetch_timeout=0.0))


def test_another_host_fetches_what_it_needs(yard: Yard, forge: Forge) -> None:
    """To find out what goes into an image, and to build it: also when the branch has moved on."""
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    second = forge.push()
    look(yard, "web")
    shutil.rmtree(yard.service.config.checkouts_dir)
    yard.dispatcher.once()
    [build] = yard.service.builds()
    assert build.state is BuildState.QUEUED and second in build.folder and Path(build.folder).is_dir()
    forge.push()
    shutil.rmtree(yard.service.config.checkouts_dir)
    yard.work()
    assert yard.service.build(build.id).state is BuildState.SUCCEEDED and Path(build.folder).is_dir()
    git("push", "--quiet", "--force", forge.bare, f"{first}:refs/heads/main", at=forge.work)
    git("-c", "gc.pruneExpire=now", "gc", "--quiet", "--prune=now", at=forge.bare)
    shutil.rmtree(yard.service.config.checkouts_dir)
    with pytest.raises(Refused, match=f"commit {second[:12]} is not in .* any more"):
        yard.service.hosted.folder(yard.service.recipes.image("web")[0])


def test_a_build_whose_commit_is_gone_pauses_and_says_so(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    second = forge.push()
    look(yard, "web")
    yard.dispatcher.once()
    shutil.rmtree(yard.service.config.checkouts_dir)
    git("push", "--quiet", "--force", forge.bare, f"{first}:refs/heads/main", at=forge.work)
    git("-c", "gc.pruneExpire=now", "gc", "--quiet", "--prune=now", at=forge.bare)
    yard.work()
    [build] = yard.service.builds(states=[BuildState.PAUSED])
    assert f"commit {second[:12]} is not in" in (build.error or "")
    git("push", "--quiet", forge.bare, f"{second}:refs/heads/main", at=forge.work)
    yard.service.resume(build.id)
    yard.work()
    assert yard.service.build(build.id).state is BuildState.SUCCEEDED


@pytest.mark.parametrize(
    ("url", "owner", "told"),
    [
        ("https://git.example/acme/infra.git", "acme", True),
        ("git@git.example:acme/infra.git", "acme", True),
        ("ssh://git@git.example:29418/acme/infra", "acme", True),
        ("https://git.example/group/sub/infra", "group/sub", True),
        ("/srv/git/infra.git", "acme", True),
        ("https://git.example/acme/infra", "", True),
        ("https://git.example/other/infra", "acme", False),
        ("https://git.example/acme/infrared", "acme", False),
    ],
)
def test_who_is_told_of(url: str, owner: str, told: bool) -> None:
    data = {"repository": "infra", "owner": owner, "ref": "refs/heads/main"}
    assert repository.told_by(data, url, "refs/heads/main") is told
    assert not repository.told_by(data, url, "refs/heads/other")
    assert not repository.told_by([data], url, "refs/heads/main")


def test_a_host_with_another_state_dir_says_so(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    yard.service.hosted.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    forge.push()
    look(yard, "web")
    yard.dispatcher.once()
    [build] = yard.service.builds()
    shutil.rmtree(yard.service.config.checkouts_dir)
    with Service.open(config.load([str(yard.site.file)], state_dir=str(tmp_path / "elsewhere"))) as other:
        with pytest.raises(Refused, match="by another host") as caught:
            other.hosted.ensure(Path(build.folder), Control())
        assert "same state_dir" in caught.value.hint
        assert other.hosted.folder(other.recipes.image("web")[0]).is_dir()


def test_two_that_follow_make_one_change(any_yard: Yard, forge: Forge) -> None:
    yard = any_yard
    yard.service.hosted.add("recipes", forge.url)
    for number in range(3):
        forge.image("web", motd=f"many {number}")
        forge.push()
        done: list[list[str]] = []
        with Service.open(yard.service.config) as other:
            both = [Hosted(yard.service.config, each.database) for each in (yard.service, other)]
            threads = [
                threading.Thread(target=lambda one=one, to=done: to.append(one.look("infra", Control())))
                for one in both
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert sorted(done) == [[], ["infra/web"]]
        assert len(changes(yard)) == number + 1


PLACES = ("fetched", "read", "told", "applied")


def die(place: str) -> None:
    """In a child: killed -9 the first time that it comes to this place."""

    def end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(holder: Any, name: str) -> None:
        work = getattr(holder, name)
        setattr(holder, name, lambda *words, **more: (work(*words, **more), end()))

    if place == "fetched":
        repository.process.run = lambda argv, **more: end() if "sync" in argv else RUN(argv, **more)  # type: ignore[assignment]
    elif place == "read":
        after(Hosted, "_read")
    elif place == "told":
        after(hosted.events, "add")
    else:
        after(Hosted, "_follow")


RUN = repository.process.run


@pytest.mark.parametrize("place", PLACES)
def test_a_death_loses_nothing_and_doubles_nothing(yard: Yard, forge: Forge, place: str) -> None:
    yard.service.hosted.add("recipes", forge.url)
    forge.image("web", motd="1")
    commit = forge.push()
    worker = yard.site.worker(place, module="tests.small.hosted_worker")
    assert worker.wait() == -9
    checkout = repository.place(yard.service.config, forge.url, commit)
    assert checkout.exists() == (place != "fetched")
    look(yard, "infra")
    assert len(changes(yard)) == 1 and settle(yard) == ["web"]
    assert len(yard.service.builds()) == 1
    assert yard.service.recipes.image("web")[0].version == 2
    assert Dispatcher(yard.service, yard.inbox).once() == []
