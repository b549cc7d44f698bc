"""The first process of an isolated child's pid namespace; run by path, by process.py only.

It starts the command, reaps every orphan, and lets those that still write (diskimage-builder pipes its
output through a filter) finish before it exits with the command's exit code: then the kernel ends
everything else in the namespace.
"""

from __future__ import annotations

import os
import signal
import sys
import time

LINGER = 2.0  # seconds that processes left by the command may take


def main(argv: list[str]) -> int:
    """Run `argv`; -> its exit code, 128 + N when signal N ended it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the whole session gets it: exit after the command, not before
    command = os.fork()
    if command == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
            sys.stderr.flush()
            os._exit(127)
    while True:
        pid, status = os.wait()
        if pid == command:
            break
    code = os.waitstatus_to_exitcode(status)
    bury_rest(time.monotonic() + LINGER)
    return code if code >= 0 else 128 - code


def bury_rest(deadline: float) -> None:
    """Wait for all other processes of the namespace, all our children now."""
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
