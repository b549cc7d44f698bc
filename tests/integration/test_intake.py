"""The same thing asked for twice at the same instant, by two processes, is one build."""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from imageflow import config
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.service import Service

ROUNDS = 50
RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"


def _ask(configuration: str, barrier: Barrier, answers: Queue[tuple[int, str, str]]) -> None:
    with Service.open(config.load([configuration])) as service:
        for number in range(ROUNDS):
            barrier.wait(60)
            [answer] = service.submit(RECIPE, settings={"dib.environment.ROUND": f"'{number}'"})
            answers.put((number, answer.build.id, answer.verdict))


@pytest.mark.timeout(300)
def test_two_processes_create_the_same_build_at_the_same_instant(tmp_path: Path, database_url: str) -> None:
    configuration = tmp_path / "imageflow.conf"
    configuration.write_text(f"[DEFAULT]\nstate_dir = {tmp_path / 'state'}\n[database]\nconnection = {database_url}\n")
    with Database(database_url) as database:
        schema.upgrade(database)
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_ask, args=(str(configuration), barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in range(2 * ROUNDS)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for number in range(ROUNDS):
        ids = {build_id for at, build_id, _verdict in got if at == number}
        verdicts = sorted(verdict for at, _build_id, verdict in got if at == number)
        assert len(ids) == 1, f"round {number}: {ids}"
        assert verdicts == ["created", "joined"], f"round {number}"
    with Service.open(config.load([str(configuration)])) as service:
        assert len(service.builds(limit=1000)) == ROUNDS
        assert service.board.job_count == ROUNDS
