"""Two processes follow recipes in git, or one dies on the way: each commit is one change."""

from __future__ import annotations

import threading

import pytest

from imageflow.fetch import git
from imageflow.host.control import Control
from imageflow.rebuilds.dispatcher import Dispatcher
from imageflow.registry.git_recipes import GitRecipes
from imageflow.service import Service
from tests.flows.hosted.hosted_yard import changes, look, settle
from tests.small.forge import Forge
from tests.small.yard import Yard


def test_two_that_follow_make_one_change(any_yard: Yard, forge: Forge) -> None:
    yard = any_yard
    yard.service.git_recipes.add("recipes", forge.url)
    for number in range(3):
        forge.image("web", motd=f"many {number}")
        forge.push()
        done: list[list[str]] = []
        with Service.open(yard.service.config) as other:
            both = [GitRecipes(yard.service.config, each.database) for each in (yard.service, other)]
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


@pytest.mark.parametrize("place", PLACES)
def test_a_death_loses_nothing_and_doubles_nothing(yard: Yard, forge: Forge, place: str) -> None:
    yard.service.git_recipes.add("recipes", forge.url)
    forge.image("web", motd="1")
    commit = forge.push()
    worker = yard.site.worker(place, module="tests.small.hosted_worker")
    assert worker.wait() == -9
    checkout = git.place(yard.service.config, forge.url, commit)
    assert checkout.exists() == (place != "fetched")
    look(yard, "infra")
    assert len(changes(yard)) == 1 and settle(yard) == ["web"]
    assert len(yard.service.builds()) == 1
    assert yard.service.recipes.image("web")[0].version == 2
    assert (
        Dispatcher(
            yard.service.config, yard.service.database, yard.service.submitter, yard.service.checkouts, yard.inbox
        ).once()
        == []
    )
