"""A build's log: it has an end, and tells nevertheless how each step ended."""

from __future__ import annotations

from pathlib import Path

from imageflow.host.buildlog import BuildLog


def test_a_log_that_is_full_keeps_a_little_of_each_step(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "b.log"
    log = BuildLog(file, most=100_000)
    log.step = "configure-01-shell"
    log("first")
    for number in range(20_000):
        log(f"line {number}")
    log.step = "configure-02-shell"
    log("failed: what the operator looks for")
    log.close()
    assert file.stat().st_size < 140_000
    lines = file.read_text().splitlines()
    assert lines[0].endswith("first")
    assert lines[-1].endswith("[configure-02-shell] failed: what the operator looks for")
    said = [line for line in lines if "the log is full" in line]
    assert [line.split()[7] for line in said] == ["configure-01-shell", "configure-02-shell"]


def test_one_who_takes_over_goes_on_where_the_log_ends(tmp_path: Path) -> None:
    for worker in range(3):
        log = BuildLog(tmp_path / "b.log", most=1000)
        log.step = "one"
        log(f"worker {worker} " + "x" * 600)
        log.close()
    text = (tmp_path / "b.log").read_text()
    assert text.count("the log is full") == 2
    assert text.count("worker") == 3
