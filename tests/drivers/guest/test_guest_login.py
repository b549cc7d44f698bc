"""Logging in to a machine: whose host key it is, and waiting for what is not there yet."""

from __future__ import annotations

import socket
import textwrap
import threading
import time
from pathlib import Path

import pytest

from imageflow.errors import Cancelled, MachineTrouble, Refused, Unavailable
from imageflow.guest import connect, keys
from imageflow.host.control import Control
from tests.drivers.sshguest import SshGuest, silent, ssh_guest


def test_another_host_key_is_refused_at_once(guest: SshGuest, control: Control, tmp_path: Path) -> None:
    other = keys.make(tmp_path / "other")
    access = guest.access
    keys.expect(access.known_hosts, other.host_public)
    try:
        started = time.monotonic()
        with pytest.raises(Refused, match="an unexpected host key"):
            connect.connect(access, control=control, log=silent)
        assert time.monotonic() - started < 5
    finally:
        keys.expect(access.known_hosts, guest.keys.host_public)


def test_an_unknown_host_key_is_pinned_at_the_first_connection(guest: SshGuest, control: Control) -> None:
    guest.keys.known_hosts.unlink(missing_ok=True)
    access = keys.access(guest.keys, "127.0.0.1", guest.port, host_known=False)
    connect.connect(access, control=control, log=silent).close()
    assert keys.expected(access.known_hosts) == [tuple(guest.keys.host_public.split()[:2])]


def test_a_key_that_is_not_there_yet_is_waited_for(own_guest: SshGuest, control: Control) -> None:
    authorized = "/root/.ssh/authorized_keys"
    own_guest.command("mv", authorized, "/root/aside")
    with pytest.raises(Unavailable, match="does not accept the build's key"):
        connect.connect(own_guest.access, control=control, log=silent, timeout=1.0)
    timer = threading.Timer(1.5, own_guest.command, ["mv", "/root/aside", authorized])
    timer.start()
    connect.connect(own_guest.access, control=control, log=silent, timeout=30).close()
    timer.join()


def test_a_machine_that_is_not_up_yet_is_waited_for(control: Control) -> None:
    with ssh_guest() as own:
        own.stop()
        access, connected = own.access, threading.Event()

        def log_in() -> None:
            connect.connect(access, control=control, log=silent, timeout=30).close()
            connected.set()

        thread = threading.Thread(target=log_in)
        thread.start()
        time.sleep(1.0)
        own.start()
        thread.join()
        assert connected.is_set()


@pytest.mark.parametrize("behaviour", ["silent", "closes", "talks nonsense"])
def test_a_port_where_no_ssh_server_is(behaviour: str, guest: SshGuest, control: Control) -> None:
    """As qemu's own network does it before the machine has one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                except OSError:
                    return
                if behaviour == "silent":
                    kept.append(taken)
                    continue
                if behaviour == "talks nonsense":
                    taken.sendall(b"220 mail\r\n" * 5)
                taken.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        try:
            access = keys.access(guest.keys, "127.0.0.1", port, host_known=True)
            with pytest.raises(Unavailable, match=f"no login over SSH at 127.0.0.1:{port} within 2 s"):
                connect.connect(access, control=control, log=silent, timeout=2)
            died = time.monotonic() + 0.7
            with pytest.raises(MachineTrouble, match="it died"):
                connect.await_ssh(
                    access,
                    control=control,
                    log=silent,
                    timeout=30,
                    dead=lambda: "it died" if time.monotonic() > died else None,
                )
            assert time.monotonic() - died < 3
            with pytest.raises(Cancelled):
                connect.connect(access, control=_stopping(1.0), log=silent, timeout=30)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()
            for each in kept:
                each.close()


def _stopping(seconds: float) -> Control:
    control = Control()
    timer = threading.Timer(seconds, control.stop, [Cancelled("stop")])
    timer.daemon = True
    timer.start()
    return control


def test_cloud_init_is_waited_for(own_guest: SshGuest, control: Control) -> None:
    fake = textwrap.dedent(
        """\
        #!/bin/sh
        echo "status: $(if [ -e /run/cloud-init/result.json ]; then echo done; else echo running; fi)"
        """
    )
    with connect.connect(own_guest.access, control=control, log=silent) as made:
        made.put(fake.encode(), "/usr/local/bin/cloud-init", mode="0755", control=control)
        made.run("mkdir -p /run/cloud-init; touch /run/cloud-init/status.json", control=control)  # its first stage
        with pytest.raises(Unavailable, match="cloud-init is still not done"):
            made.await_cloud_init(control, 1.0)
        log: list[str] = []
        timer = threading.Timer(1.0, own_guest.command, ["touch", "/run/cloud-init/result.json"])
        timer.start()
        connect.await_ssh(own_guest.access, control=control, log=log.append, timeout=30, dead=lambda: None).close()
        timer.join()
        assert log == ["waiting for cloud-init"]
