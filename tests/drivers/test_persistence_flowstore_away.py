"""TaskFlow on our database while its server goes away."""

from __future__ import annotations

import pytest

from imageflow.errors import DatabaseUnavailable
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.drivers.test_persistence_flowstore import HOOKS, a_bench, quiet  # noqa: F401 - a fixture
from tests.servers.services import Server


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_run_survives_a_restart_of_the_server(kind: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)

    def restart() -> str:
        server.stop()
        server.start()
        return "done"

    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
        bench = a_bench(db)
        HOOKS["b"] = restart
        bench.engine("a", "b", "c", view=bench.view(patience=30)).run()
        assert set(bench.states().values()) == {"SUCCESS"}
        assert bench.attempts() == [("a", 1, "succeeded"), ("b", 1, "succeeded"), ("c", 1, "succeeded")]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_run_without_a_server_ends_with_our_error(kind: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
        bench = a_bench(db)
        HOOKS["a"] = server.stop
        try:
            with pytest.raises(DatabaseUnavailable):
                bench.engine("a", "b", view=bench.view(patience=1)).run()
        finally:
            server.start()
        assert bench.states() == {"a": "RUNNING", "b": "PENDING"}
