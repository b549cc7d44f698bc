"""How an installation ended, where the console of a machine that is off can't be read any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow import config as configuration
from imageflow.compute import MachineSpec
from imageflow.config import Config
from imageflow.flight import Cause, Trouble
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from imageflow.tasks.observer import Observer
from tests.small.fake_compute import FakeCompute

BUILD = "0123456789ab"
NAME = f"{BUILD}-main"
DONE = f"imageflow: installed {BUILD}"


class Forgetful(FakeCompute):
    """Its consoles are worth looking at for two seconds longer than a guest says something, as a cloud's are."""

    console_delay = 2


class Installing:
    def __init__(self, folder: Path, compute: type[FakeCompute]) -> None:
        self.config: Config = configuration.load(state_dir=str(folder / "state"))
        self.compute = compute(self.config)
        self.control = Control(time.monotonic() + 30, build_id=BUILD)
        self.log = BuildLog(folder / "log")
        iso = folder / "media.iso"
        iso.write_bytes(bytes(1 << 16))
        self.compute.ensure(
            NAME,
            MachineSpec(memory=64, disk=1, reboots=False),
            build_id=BUILD,
            control=self.control,
            log=self.log,
            cdrom=iso,
        )

    def watched(self, *says: tuple[float, str]) -> Trouble | None:
        """What a worker thinks of it that looks from now on; `says`: (after how many seconds, what), it ends with it."""

        def guest() -> None:
            for seconds, text in says:
                time.sleep(seconds)
                self.compute.say(NAME, text)
            self.compute.power_off(NAME)

        thread = threading.Thread(target=guest)
        thread.start()
        try:
            observer = Observer(self.compute, NAME, self.config, BUILD, installer=True)
            return observer.await_end(DONE, self.control, self.log, lambda *_: None)
        finally:
            thread.join()


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Installing]:
    yield Installing(tmp_path, Forgetful)


def cause(trouble: Trouble | None) -> Cause | None:
    return None if trouble is None else trouble.cause


def test_what_ended_while_nobody_looked_may_have_been_done(forgetful: Installing) -> None:
    """No reason to say that the answer file is wrong, and to wait for somebody to look at it."""
    forgetful.compute.say(NAME, "Installing the base system\n")
    forgetful.compute.power_off(NAME)
    assert cause(forgetful.watched()) is Cause.DIED


def test_who_came_when_it_had_said_its_last_word_knows_nothing_either(forgetful: Installing) -> None:
    forgetful.compute.say(NAME, "Installing the base system\n")
    assert cause(forgetful.watched((1.2, ""))) is Cause.DIED


def test_a_cloud_that_was_away_when_it_ended(forgetful: Installing, monkeypatch: pytest.MonkeyPatch) -> None:
    real = forgetful.compute.console

    def away(name: str, offset: int = 0) -> bytes:
        text = real(name)
        if text.endswith(b"late\n"):
            time.sleep(3.0)
            return b""
        return text[offset:]

    monkeypatch.setattr(forgetful.compute, "console", away)
    assert cause(forgetful.watched((0.7, "early\n"), (1.2, "late\n"), (1.0, ""))) is Cause.DIED


def test_an_installer_that_was_watched_to_its_end_has_failed(forgetful: Installing) -> None:
    assert cause(forgetful.watched((1.2, "Installing\n"), (1.2, "failed\n"))) is Cause.NOT_INSTALLED


def test_one_that_says_so_is_done(forgetful: Installing) -> None:
    assert forgetful.watched((1.2, f"{DONE}\n")) is None


def test_its_word_is_good_whoever_heard_it(forgetful: Installing) -> None:
    forgetful.compute.say(NAME, f"{DONE}\n")
    forgetful.compute.power_off(NAME)
    assert forgetful.watched() is None


def test_a_console_that_is_kept_says_how_it_ended_whenever_it_is_read(tmp_path: Path) -> None:
    kept = Installing(tmp_path, FakeCompute)
    kept.compute.power_off(NAME)
    assert cause(kept.watched()) is Cause.NOT_INSTALLED
