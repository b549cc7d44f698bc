"""Recipes in git are followed from commit to commit: what changes is built, once, and a bad commit changes nothing."""

from __future__ import annotations

import shutil
import threading

import pytest

from imageflow.background.flag import Flag
from imageflow.errors import Unavailable
from imageflow.fetch import git as repository
from imageflow.model import Event, Outcome, Verdict
from imageflow.registry import change_events
from imageflow.registry.follower import RecipeFollower
from tests.flows.hosted.hosted_yard import changes, look, settle
from tests.small.forge import IMAGE, Forge
from tests.small.polled import git
from tests.small.yard import Yard


def test_a_commit_rebuilds_what_it_changes_and_nothing_else(any_yard: Yard, forge: Forge) -> None:
    yard = any_yard
    forge.image("db")
    before = forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
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
    yard.service.git_recipes.add("recipes", forge.url)
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
    yard.service.git_recipes.add("recipes", forge.url, name="ours")
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
    assert "there is no recipes" in yard.service.git_recipes.problems()["ours"]


def test_an_image_may_move_from_file_to_file(yard: Yard, forge: Forge) -> None:
    forge.image("db")
    forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
    web, db = ((forge.work / f"recipes/{name}.yaml").read_text() for name in ("web", "db"))
    forge.write("recipes/web.yaml", db)
    forge.write("recipes/db.yaml", web)
    forge.push()
    assert sorted(look(yard, "infra")) == ["infra/db", "infra/web"]
    assert yard.service.recipes.image("web")[0].name == "infra/db"
    forge.write("recipes/db.yaml", db)
    forge.push()
    assert look(yard, "infra") == []  # both would have it
    assert "image 'db' belongs to" in yard.service.git_recipes.problems()["infra"]
    assert yard.service.recipes.image("web")[0].name == "infra/db"


def test_a_commit_that_is_not_right_changes_nothing_and_says_so_once(
    yard: Yard, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    forge.image("db")
    before = forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
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
    problem = yard.service.git_recipes.problems()["infra/web"]
    assert problem.startswith("recipes/web.yaml:6: images[0].methid:")
    assert len([record for record in caplog.records if "can't be registered" in record.getMessage()]) == 1
    [event] = yard.service.events.select(verdict=Verdict.QUARANTINED)
    assert (event.subject, event.type) == ("infra/web", change_events.INVALID) and problem in (event.reason or "")
    current = yard.service.recipes.image("web")[0]
    assert current.repository and current.repository["commit"] == before
    forge.image("web", motd="1")
    forge.push()
    assert look(yard, "infra") == ["infra/web"]
    assert yard.service.git_recipes.problems() == {}
    assert settle(yard) == ["web"]


def test_back_and_forth_are_two_changes(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
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
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    forge.write("recipes/web.motd", "1")
    after = forge.push()
    data = {"repository": "infra", "owner": "acme", "ref": "refs/heads/main", "before": before, "after": after}
    yard.inbox.receive([Event("https://git.example/acme/infra", "1", "git.push", data=data)], listener="http")
    assert settle(yard) == []
    assert yard.held() == {"web": "waits for a push to its recipe, of web"}
    stop = Flag()
    follower = RecipeFollower(yard.service.config, yard.service.git_recipes, yard.service.checkouts, tick=0.05)
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        yard.site.await_that(lambda: changes(yard))
        yard.site.await_that(lambda: all(one.asked == one.looked for one in yard.service.git_recipes.origins()))
    finally:
        stop.set()
        thread.join(30)
    assert settle(yard) == ["web"]
    [build] = yard.service.builds()
    assert "git.push of refs/heads/main" in build.reason and "recipe web.yaml of infra changed" in build.reason
    yard.inbox.receive([Event("https://git.example/acme/infra", "2", "git.push", data=data)], listener="http")
    assert settle(yard) == []


def test_a_repository_that_is_away_holds_nobody_up(yard: Yard, forge: Forge) -> None:
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    aside = forge.bare.with_name("aside")
    forge.bare.rename(aside)
    push = {"repository": "infra", "owner": "", "ref": "refs/heads/main", "after": "f" * 40}
    yard.inbox.receive([Event("x", "1", "git.push", data=push)], listener="http")
    yard.dispatcher.once()
    assert [one.asked - one.looked for one in yard.service.git_recipes.origins()] == [1]
    with pytest.raises(Unavailable):
        look(yard, "web")
    assert [one.asked - one.looked for one in yard.service.git_recipes.origins()] == [0]
    assert "can't be looked at" in yard.service.git_recipes.problems()["web"]
    aside.rename(forge.bare)
    assert look(yard, "web") == [] and yard.service.git_recipes.problems() == {}


def test_a_change_can_be_replayed(yard: Yard, forge: Forge) -> None:
    yard.service.git_recipes.add("recipes", forge.url)
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
    [done] = yard.service.git_recipes.add("recipes/web.yaml", forge.url, "refs/tags/stable")
    assert done.recipe.repository and done.recipe.repository["commit"] == git("rev-parse", "HEAD", at=forge.work)
    forge.image("web", motd="1")
    forge.push()
    assert look(yard, "web") == []
    tag()
    assert look(yard, "web") == ["web"]


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


@pytest.mark.parametrize(
    ("url", "owner"),
    [
        ("https://bitbucket.example/scm/ops/infra.git", "OPS"),
        ("ssh://git@bitbucket.example:7999/ops/infra.git", "OPS"),
        ("https://bitbucket.example/git/scm/~jdoe/infra.git", "~JDOE"),
        ("ssh://git@bitbucket.example:7999/~jdoe/infra.git", "~JDOE"),
        ("https://review.example/a/ops/infra", "ops"),
        ("https://review.example/r/a/ops/infra", "ops"),
        ("https://review.example/a/infra", ""),
        ("ssh://me@review.example:29418/ops/base/infra", "ops/base"),
        ("https://example.org/git/ops/infra.git", "ops"),
        ("https://example.org/git/ops/infra.git/", "ops"),
        ("https://github.com/ops/infra.git", "Ops"),
        ("https://GitHub.com/Ops/Infra", "ops"),
        ("git@github.com:Ops/infra.git", "ops"),
        ("git@github.com:/ops/infra.git", "ops"),
        ("https://git.example/team%20x/infra", "team x"),
    ],
)
def test_whatever_is_before_the_owner_and_in_whatever_case(url: str, owner: str) -> None:
    for name in ("infra", "Infra", "infra.git"):
        for ref in ("refs/heads/main", "main"):
            assert repository.told_by({"repository": name, "owner": owner, "ref": ref}, url, "refs/heads/main")
    assert not repository.told_by(
        {"repository": "infra", "owner": "x" + owner + "x", "ref": "main"}, url, "refs/heads/main"
    )
    assert not repository.told_by({"repository": "fra", "owner": owner, "ref": "main"}, url, "refs/heads/main")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://git.example:443/x/srv/infra.git", "https://Git.Example/x/srv/infra"),
        ("ssh://git@git.example:22/x/srv/infra.git", "ssh://other@git.example/x/srv/infra.git"),
        ("git@git.example:x/srv/infra.git", "ssh://git@git.example/x/srv/infra"),
    ],
)
def test_who_is_told_of_by_the_url(url: str, told: str) -> None:
    data = {"repository": None, "owner": None, "ref": "refs/heads/main", "url": told}
    assert repository.told_by(data, url, "refs/heads/main")
    assert not repository.told_by(data | {"url": told.replace("srv", "other")}, url, "refs/heads/main")
