"""Setting a flag from a signal handler, at every instruction of the thread that waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from imageflow.background.flag import Flag

STORM = """
import signal, time
from imageflow.background.flag import Flag

flag, handled = Flag(), 0

def handler(*_):
    global handled
    handled += 1
    flag.set()

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
end = time.monotonic() + 1.0
while time.monotonic() < end:
    flag.wait(0.001)
    flag.clear()
signal.setitimer(signal.ITIMER_REAL, 0)
print(handled)
"""


def test_a_handler_may_set_it_whatever_the_main_thread_does_with_it() -> None:
    """With a threading.Event in place of the flag this stands still within a second."""
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 500


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
