"""Setting a flag from a signal handler, at every instruction of the thread that waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time

from imageflow.signals import Flag


def test_a_handler_may_set_it_whatever_the_main_thread_does_with_it() -> None:
    """With an Event in place of the flag this stands still within a second."""
    flag = Flag()
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        flag.set()

    before = signal.signal(signal.SIGUSR1, handler)
    end = time.monotonic() + 1.0
    shots = threading.Thread(
        target=lambda: [os.kill(os.getpid(), signal.SIGUSR1) for _ in iter(lambda: time.monotonic() < end, False)]
    )
    shots.start()
    try:
        while time.monotonic() < end:
            flag.wait(0.001)
            flag.clear()
        shots.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled > 1000


def test_it_wakes_who_waits() -> None:
    flag = Flag()
    threading.Timer(0.05, flag.set).start()
    began = time.monotonic()
    assert flag.wait(30)
    assert time.monotonic() - began < 10
    assert flag.wait(0)
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0.01)
