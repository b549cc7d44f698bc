"""Carries one connection of a guest to HOST PORT: started by QEMU for each, on its standard input and output.

Run by its path, without imageflow: only the standard library.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys

_CHUNK = 1 << 16


def main(host: str, port: str) -> None:
    """Carry bytes both ways until one side has nothing more to say and the other has heard it."""
    inside = socket.socket(fileno=os.dup(0))  # QEMU gives both ends as one socket
    try:
        outside = socket.create_connection((host, int(port)), timeout=20.0)
    except OSError:
        return
    outside.settimeout(None)
    with inside, outside, selectors.DefaultSelector() as wait:
        wait.register(inside, selectors.EVENT_READ, outside)
        wait.register(outside, selectors.EVENT_READ, inside)
        while wait.get_map():
            for key, _ in wait.select():
                here, there = key.fileobj, key.data
                assert isinstance(here, socket.socket)
                try:
                    data = here.recv(_CHUNK)
                    there.sendall(data) if data else there.shutdown(socket.SHUT_WR)
                except OSError:
                    return
                if not data:
                    wait.unregister(here)
                    if here is inside:
                        return  # the guest has closed it: QEMU does not tell a half-closed connection from that


if __name__ == "__main__":
    main(*sys.argv[1:])
