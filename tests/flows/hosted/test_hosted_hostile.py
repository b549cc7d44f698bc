"""Commits that are meant to harm who looks at them: quarantined, visibly, and what followed before goes on."""

from __future__ import annotations

from collections import Counter

import pytest

from imageflow.host.bounded import Bounds
from imageflow.model import Verdict
from imageflow.registry import change_events, examination
from tests.flows.hosted.hosted_yard import look
from tests.small import costly
from tests.small.forge import Forge
from tests.small.yard import Yard

BOMB = """
images:
  - name: bomb
    method: boot
    base: {url: "https://example.org/base.qcow2", sha256: "%s"}
    configure: [{files: [{path: /etc/it, source: bomb.j2, template: true}]}]
""" % ("0" * 64)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "BOUNDS", Bounds(memory=400 << 20, processor=10, wall=60.0))


@pytest.mark.usefixtures("small")
def test_a_recipe_that_takes_too_much_is_quarantined_and_the_others_go_on(
    yard: Yard, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge.image("db")
    forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
    forge.image("app")
    forge.write("recipes/bomb.yaml", BOMB)
    forge.write("recipes/bomb.j2", "{% if 1 %}{% endif %}" * 200_000)
    forge.push()
    assert look(yard, "infra") == ["infra/app"]
    [event] = yard.service.events.select(type=change_events.INVALID)
    assert (event.subject, event.verdict) == ("infra/bomb", Verdict.QUARANTINED)
    assert "took more than" in str(event.reason)
    assert "took more than" in yard.service.git_recipes.problems()["infra/bomb"]
    assert {recipe.name for recipe in yard.service.recipes.registered()} == {"infra/app", "infra/db", "infra/web"}
    again = Counter[str]()
    monkeypatch.setattr(examination, "examine", lambda *_: again.update(["examined"]))
    assert (look(yard, "infra"), again) == ([], Counter()), "the same commit is not tried at every look"


def test_a_check_that_crashes_is_the_commits_fault(yard: Yard, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    forge.image("db")
    forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
    forge.image("app")
    forge.push()
    monkeypatch.setattr(examination, "checked", costly.death)
    assert look(yard, "infra") == []
    assert "was ended by SIGKILL" in yard.service.git_recipes.problems()["infra/app"]


def test_a_commit_of_many_costly_recipes_has_an_end(yard: Yard, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once are too much; one after the other they have some minutes, and here none."""
    forge.image("db")
    forge.push()
    yard.service.git_recipes.add("recipes", forge.url)
    forge.image("app")
    forge.push()
    monkeypatch.setattr(examination, "checked", costly.death)
    monkeypatch.setattr(examination, "ALONE", -1.0)
    assert look(yard, "infra") == []
    assert set(yard.service.git_recipes.problems().values()) == {
        "it was not checked: other recipes of this commit took too much"
    }
