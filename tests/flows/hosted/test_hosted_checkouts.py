"""Checkouts of recipes in git: fetched by each host that needs them, and removed when nothing does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageflow import config
from imageflow.errors import Refused
from imageflow.fetch.git import Idle
from imageflow.host.control import Control
from imageflow.model import BuildState
from imageflow.service import Service
from tests.flows.hosted.hosted_yard import look, settle
from tests.small.forge import Forge
from tests.small.polled import git
from tests.small.yard import Yard


def test_checkouts_go_when_nothing_needs_them(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
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

    assert patient.collect(yard.service.checkouts.used()) == [] and left() == {first, second, third, ".new-killed"}
    idle.collect(yard.service.checkouts.used())
    assert left() == {second, third}
    yard.service.abort(paused.id)
    yard.work()
    idle.collect(yard.service.checkouts.used())
    assert left() == {third}
    yard.service.recipes.remove("web")
    idle.collect(yard.service.checkouts.used())
    assert list(folder.iterdir()) == []


def replace_timeout(yard: Yard) -> Any:
    return replace(yard.service.config, git=replace(yard.service.config.git, fetch_timeout=0.0))


def test_another_host_fetches_what_it_needs(yard: Yard, forge: Forge) -> None:
    """To find out what goes into an image, and to build it: also when the branch has moved on."""
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
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
        yard.service.checkouts.folder(yard.service.recipes.image("web")[0])


def test_a_build_whose_commit_is_gone_pauses_and_says_so(yard: Yard, forge: Forge) -> None:
    first = git("rev-parse", "HEAD", at=forge.work)
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
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


def test_a_host_with_another_state_dir_says_so(yard: Yard, forge: Forge, tmp_path: Path) -> None:
    yard.service.git_recipes.add("recipes/web.yaml", forge.url)
    forge.image("web", motd="1")
    forge.push()
    look(yard, "web")
    yard.dispatcher.once()
    [build] = yard.service.builds()
    shutil.rmtree(yard.service.config.checkouts_dir)
    with Service.open(config.load([str(yard.site.file)], state_dir=str(tmp_path / "elsewhere"))) as other:
        with pytest.raises(Refused, match="by another host") as caught:
            other.checkouts.ensure(Path(build.folder), Control())
        assert "same state_dir" in caught.value.hint
        assert other.checkouts.folder(other.recipes.image("web")[0]).is_dir()
