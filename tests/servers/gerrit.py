"""A server with as much of Gerrit's SSH commands as the tests need: stream-events, and query for merged changes."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

_QUERY = re.compile(
    r"gerrit query --format=JSON --current-patch-set --start (\d+)"
    r" 'status:merged since:\{(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000)\} limit:(\d+)'"
)


class Gerrit:
    """Start it, and connect to 127.0.0.1:`port` as `user` with the key in `key`; the test decides what it sends."""

    user = "imageflow"

    def __init__(self, folder: Path) -> None:
        self.host_key = paramiko.ECDSAKey.generate()
        self.key = folder / "id"
        client = paramiko.ECDSAKey.generate()
        client.write_private_key_file(str(self.key))
        self._allowed = client.get_base64()
        self.changes: list[dict[str, Any]] = []  # what a query finds, the newest first
        self.refused = ""  # the refusal of a query
        self.permitted = True  # may stream events
        self.commands: list[str] = []
        self.logins = 0
        self._streams: list[paramiko.Channel] = []
        self._transports: list[paramiko.Transport] = []
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.port = 0
        self.start()
        self.known_hosts = folder / "known_hosts"
        self.known(self.host_key)

    def known(self, key: paramiko.PKey) -> None:
        """The line of known_hosts with the host's key."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n")

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def stop(self) -> None:
        """Close all connections, and take no new ones."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            transports, self._transports, self._streams = self._transports, [], []
        for transport in transports:
            transport.close()

    @property
    def listening(self) -> int:
        """How many streams there are."""
        with self._lock:
            return len(self._streams)

    def say(self, *what: dict[str, Any] | bytes) -> None:
        """Send to all streams: objects as lines, bytes as they are."""
        data = b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in what)
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.sendall(data)

    def merge(self, number: int, *, said: bool = True, moment: float | None = None) -> None:
        """Merge a change; `said`: report it on the stream, too."""
        now = moment or time.time()
        commit = f"{number:040x}"
        change = {"project": "acme/infra", "branch": "main", "number": number, "subject": f"Change {number}"}
        submitted = {"type": "SUBM", "value": "1", "grantedOn": int(now), "by": {"username": "jane"}}
        patchset = {"number": 1, "revision": commit, "approvals": [submitted]}
        self.changes.insert(0, {**change, "status": "MERGED", "lastUpdated": int(now), "currentPatchSet": patchset})
        if said:
            self.say(
                {
                    "type": "change-merged",
                    "change": change,
                    "patchSet": {"number": 1, "revision": commit},
                    "newRev": commit,
                    "eventCreatedOn": int(now),
                }
            )

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        transport = paramiko.Transport(sock)
        transport.daemon = True
        transport.add_server_key(self.host_key)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Session(self))
            with self._lock:
                self._transports.append(transport)

    def allowed(self, name: str, key: paramiko.PKey) -> bool:
        ok = name == self.user and key.get_base64() == self._allowed
        self.logins += ok
        return ok

    def stream(self, channel: paramiko.Channel, command: str) -> None:
        """A client that is told that the command runs gets everything that is sent from then on."""
        if command == "gerrit stream-events" and self.permitted:
            with self._lock:
                self._streams.append(channel)

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        self.commands.append(command)
        if command == "gerrit stream-events":
            if not self.permitted:
                channel.sendall_stderr(b"fatal: stream events not permitted\n")
                self._end(channel, 1)
                return
            return
        asked = _QUERY.fullmatch(command)
        if asked is None:
            channel.sendall_stderr(b"fatal: not found\n")
            self._end(channel, 127)
            return
        for body in self._answer(int(asked[1]), asked[2], int(asked[3])):
            channel.sendall(json.dumps(body).encode() + b"\n")
        self._end(channel, 0)

    def _answer(self, start: int, since: str, limit: int) -> Iterator[dict[str, Any]]:
        if self.refused:
            yield {"type": "error", "message": self.refused}
            return
        after = time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S +0000")) - time.timezone
        found = [change for change in self.changes if change["lastUpdated"] >= after]
        yield from found[start : start + limit]
        yield {
            "type": "stats",
            "rowCount": len(found[start : start + limit]),
            "moreChanges": len(found) > start + limit,
        }

    @staticmethod
    def _end(channel: paramiko.Channel, code: int) -> None:
        time.sleep(0.1)  # paramiko has no hook for after the request is answered, and its end may not come before
        channel.send_exit_status(code)
        channel.close()


class _Session(paramiko.ServerInterface):
    def __init__(self, gerrit: Gerrit) -> None:
        self._gerrit = gerrit

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if self._gerrit.allowed(username, key) else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._gerrit.stream(channel, command.decode())
        threading.Thread(target=self._gerrit.execute, args=(channel, command.decode()), daemon=True).start()
        return True
