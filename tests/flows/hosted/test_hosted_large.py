"""A commit that is too large to be checked out is said to be, and is not fetched at every look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageflow.errors import TooLarge
from imageflow.fetch import git
from imageflow.host.control import Control
from tests.small.forge import Forge
from tests.small.yard import open_yard


def test_a_commit_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge = Forge(tmp_path / "forge")
    forge.image("web")
    forge.push()
    fetched: list[str] = []
    check_out = git.check_out

    def counted(*words: Any, **more: Any) -> Path:
        fetched.append(words[3])
        return check_out(*words, **more)

    monkeypatch.setattr(git, "check_out", counted)
    with open_yard(tmp_path / "yard", "", monkeypatch, git__max_size="0.002") as yard:
        recipes = yard.service.git_recipes
        recipes.add("recipes/web.yaml", forge.url)
        forge.write("blob", "x" * (8 << 20))
        large = forge.push()
        for _ in range(3):
            with pytest.raises(TooLarge, match="larger than"):
                recipes.look("web", Control())
        assert fetched.count(large) == 1
        assert "larger than" in recipes.problems()["web"]
        forge.write("blob", None)
        forge.image("web", motd="1")
        forge.push()
        recipes.look("web", Control())
        assert recipes.problems() == {}
