"""The database goes away for a moment while recipes are registered from git: `recipe add` waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.servers.services import Server
from tests.small.forge import Forge
from tests.small.yard import open_yard

TRANSACTIONS = ("who has the name", "what is registered", "the registration")  # of one `recipe add`, in this order


@pytest.mark.parametrize("broken", range(len(TRANSACTIONS)), ids=TRANSACTIONS)
def test_recipe_add_waits_for_the_database(
    tmp_path: Path, server: Server, forge: Forge, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    with server.database() as url, open_yard(tmp_path / "yard", url, monkeypatch) as yard:
        begun, gone = [0], threading.Event()

        @sa.event.listens_for(yard.service.database.engine, "begin")
        def break_off(_: sa.Connection) -> None:
            begun[0] += 1
            if begun[0] == broken + 1:
                server.stop()
                gone.set()

        with ThreadPoolExecutor() as pool:
            adding = pool.submit(yard.service.git_recipes.add, "recipes/web.yaml", forge.url)
            assert gone.wait(60)
            early, _ = wait([adding], timeout=1.0)
            server.start()
            assert not early, f"it did not wait: {adding.exception()}"
            [done] = adding.result(60)
        assert begun[0] > len(TRANSACTIONS)
        assert (done.verdict, done.recipe.name, done.recipe.version) == ("added", "web", 1)
        [origin] = yard.service.git_recipes.origins()
        assert (origin.name, origin.head) == ("web", done.recipe.repository and done.recipe.repository["commit"])
