"""Our servers: found by their metadata and brought to the wanted state.

An answer of Nova may be lost or wrong; a server's real state is what the next look at it shows.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from imageflow.compute import MachineState
from imageflow.errors import ImageflowError, MachineLost, NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.model import Event
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import patiently
from imageflow.openstack.image import PREFIX

MACHINE, STAGE = f"{PREFIX}machine", f"{PREFIX}stage"
PARKED = f"{PREFIX}parked"  # metadata of a server that was shelved, or stopped, to leave its room to others
BLANK, INSTALLING, DISK = "blank", "installing", "disk"  # stages of our servers; `disk`: it boots from its disk
_SLICE = 0.25  # seconds
BRIEFLY = 10.0  # seconds
_TRIES = 3  # attempts to bring back a server in ERROR
AGAIN = 20.0  # seconds until an idle server is asked again
_OFF = ("SHUTOFF", "SHELVED", "SHELVED_OFFLOADED")
_SHUTDOWN, _CRASHED = 4, 6  # power states of Nova
_TELLING = ("nova.instance.", "nova.compute.instance.")  # types of its versioned and unversioned notifications


class Servers:
    """The servers of one project that have a machine's name."""

    def __init__(self, cloud: Cloud, poll: float) -> None:
        self._cloud = cloud
        self._poll = poll
        self._ids: dict[str, str] = {}
        self._seen: dict[str, tuple[float, Any]] = {}  # name -> (when, server)
        self._news: set[str] = set()  # ids of servers with a notification from Nova since the last look

    def ask(self, what: str, work: Callable[[], Any], control: Control | None = None) -> Any:
        """As `patiently`, with this cloud's patience."""
        return patiently(f"{self._cloud.name}: {what}", work, patience=self._cloud.config.patience, control=control)

    def get(self, id: str) -> Any:
        """The server with this id right now, None when it is gone."""
        try:
            server = self.ask(f"server {id}", lambda: _known(self._cloud.nova.servers.get(id)))
        except NotFound:
            return None
        return None if server.status in ("DELETED", "SOFT_DELETED") else server

    def all(self, name: str | None = None) -> list[Any]:
        """The servers of a machine, or of all machines, oldest first."""
        search = {} if name is None else {"name": f"^{name}$"}

        def look() -> list[Any]:
            listed = self._cloud.nova.servers.list(search_opts=search, limit=-1)
            return [_known(server) for server in listed if name is not None or hasattr(server, "metadata")]

        found = self.ask("our servers", look)
        ours = [s for s in found if s.metadata.get(MACHINE) and name in (None, s.metadata[MACHINE])]
        return sorted((s for s in ours if s.status not in ("DELETED", "SOFT_DELETED")), key=lambda s: (s.created, s.id))

    def one(self, name: str) -> Any:
        """The current server of a machine, or None; the oldest, should a lost answer have made two."""
        if (id := self._ids.get(name)) is not None and (server := self.get(id)) is not None:
            return server
        found = self.all(name)
        self._ids.pop(name, None)
        if found:
            self._ids[name] = found[0].id
        return found[0] if found else None

    def seen(self, name: str) -> Any:
        """As `one`, but up to one poll old: for callers that look repeatedly."""
        when, server = self._seen.get(name, (-math.inf, None))
        if time.monotonic() - when > self._poll:
            server = self.one(name)
            self._seen[name] = (time.monotonic(), server)
        return server

    def changed(self, name: str) -> None:
        """Drop what was seen of it: something was done to it, or a notification came."""
        self._seen.pop(name, None)

    def heard(self, event: Event) -> None:
        """If the event is about one of our servers, look at it soon."""
        if not event.type.startswith(_TELLING) or not isinstance(event.data, Mapping):
            return
        id = event.data.get("uuid") or event.data.get("instance_id")
        for name, known in list(self._ids.items()):
            if known == id:
                self.changed(name)
                self._news.add(known)

    def pause(self, id: str, control: Control) -> None:
        """Wait until the next look at a server: one poll, or less when a notification comes."""
        end = time.monotonic() + self._poll
        while time.monotonic() < end and id not in self._news:
            control.wait(min(_SLICE, self._poll))
        self._news.discard(id)

    def lead(
        self,
        server: Any,
        what: str,
        there: Callable[[Any], bool],
        act: Callable[[Any], object],
        *,
        control: Control,
        timeout: float,
        mend: Callable[[Any], object] | None = None,
    ) -> Any:
        """Do `act` until the server is `there`, again when nothing happens; -> the server in that state.

        `mend` brings one in ERROR back: a service that Nova needs may have been down. Raises NotFound (the
        server is gone), Refused (it went to ERROR and stays there, with Nova's message), TimedOut.
        """
        end = time.monotonic() + timeout
        acted, times = -AGAIN, 0
        trouble: ImageflowError | None = None
        while True:
            control.check()
            found = self.get(server.id)
            if found is None:
                raise NotFound(f"the server of {server.name} is gone")
            if there(found):
                self.changed(found.metadata.get(MACHINE, server.name))
                return found
            broken = found.status == "ERROR" and task(found) is None
            if broken and (mend is None or times >= _TRIES):
                raise Refused(f"{what}: {fault(found)}", hint="Nova gave up; see 'openstack server show'")
            if task(found) is None and time.monotonic() - acted > AGAIN:
                try:
                    self.ask_once(what, functools.partial(mend if broken and mend is not None else act, found))
                    acted, times, trouble = time.monotonic(), times + 1, None
                except Unavailable as error:
                    trouble = error
            if time.monotonic() > end:
                if self.unheard(found):
                    raise self.given_up(found, what, control)
                raise trouble or TimedOut(f"{what}: {found.name} is {found.status} for {timeout:.0f} seconds")
            self.pause(server.id, control)

    def ask_briefly(self, what: str, work: Callable[[], Any]) -> Any:
        """As `ask`, with little patience: for what is asked again soon and may never exist."""
        patience = min(BRIEFLY, self._cloud.config.patience)
        return patiently(f"{self._cloud.name}: {what}", work, patience=patience)

    def ask_once(self, what: str, work: Callable[[], Any]) -> Any:
        """Without retries: the caller checks the outcome."""
        return patiently(f"{self._cloud.name}: {what}", work, patience=0.0)

    def state(self, server: Any) -> MachineState:
        """A server's state as a machine."""
        return state(server, self.ejected)

    def ejected(self, server: Any) -> bool:
        """Whether the CD was ejected: Nova keeps a record of the actions on a server."""
        actions = self.ask("what a server did", lambda: self._cloud.nova.instance_action.list(server.id))
        return any(action.action == "unrescue" for action in actions)

    def unheard(self, server: Any) -> bool:
        """Whether Nova waits for an action that the server's host never began, because a broken broker lost the request.

        Nova then waits for ever, and allows nothing but deleting the server.
        """
        if task(server) is None:
            return False

        def look() -> Any:
            actions = self._cloud.nova.instance_action
            last = max(actions.list(server.id), key=lambda action: str(action.start_time), default=None)
            return None if last is None else actions.get(server.id, last.request_id)

        last = self.ask("what a server did last", look)
        return last is not None and getattr(last, "events", None) == []

    def given_up(self, server: Any, what: str, control: Control) -> MachineLost:
        """Delete an unusable server; -> the error to raise."""
        self.delete(server.metadata[MACHINE], control)
        return MachineLost(
            f"{what}: Nova accepted the request, but the host of server {server.id} never received it: the server is deleted.",
            hint="was Nova's message bus away? Resume starts again from the last layer",
        )

    def note(self, server: Any, stage: str) -> None:
        """Store the stage in the server's metadata; idempotent. Nova refuses it in RESCUE and ERROR."""
        if server.metadata.get(STAGE) == stage:
            return
        self.ask("a server's metadata", lambda: self._cloud.nova.servers.set_meta(server, {STAGE: stage}))
        self.changed(server.metadata[MACHINE])

    def mark_parked(self, server: Any, parked: bool) -> None:
        """Store whether a server is put away by us; idempotent. Nova refuses it in RESCUE and ERROR."""
        if bool(server.metadata.get(PARKED)) != parked:
            value = "yes" if parked else ""
            self.ask("a server's metadata", lambda: self._cloud.nova.servers.set_meta(server, {PARKED: value}))
        self.changed(server.metadata[MACHINE])

    def keep_only(self, server: Any, control: Control) -> None:
        """Delete all other servers of its machine, made by requests whose answers were lost."""
        for other in self.all(server.metadata[MACHINE]):
            if other.id != server.id:
                with contextlib.suppress(NotFound, Unavailable):  # deleting the machine removes it, too
                    self.ask("delete a server", other.delete, control)

    def delete(self, name: str, control: Control, timeout: float = 300.0) -> None:
        """Delete all servers of the machine, if any. Raises Unavailable while Nova can't delete one."""
        end = time.monotonic() + timeout
        asked: dict[str, float] = {}
        while servers := self.all(name):
            for server in servers:
                if time.monotonic() - asked.get(server.id, -AGAIN) > AGAIN / 2:
                    with contextlib.suppress(NotFound, Unavailable):
                        self.ask_once("delete a server", server.delete)
                        asked[server.id] = time.monotonic()
            if time.monotonic() > end:
                raise Unavailable(
                    f"the server of {name} is {servers[0].status} and can't be deleted", hint="the janitor tries again"
                )
            control.wait(min(self._poll, 1.0))
        self._ids.pop(name, None)
        self.changed(name)


def _known(server: Any) -> Any:
    """The server; raises Unavailable while Nova knows only its id because its cell is down."""
    if not hasattr(server, "metadata"):
        raise Unavailable(f"Nova can't say how server {server.id} is right now")
    return server


def task(server: Any) -> str | None:
    """Nova's current task for it."""
    found = getattr(server, "OS-EXT-STS:task_state", None)
    return None if found is None else str(found)


def power(server: Any) -> int | None:
    """Its power state: 1 running, 3 paused, 4 off, 6 crashed."""
    found = getattr(server, "OS-EXT-STS:power_state", None)
    return None if found is None else int(found)


def launched(server: Any) -> bool:
    """Whether it ever ran: only then its disk is of value."""
    return bool(getattr(server, "OS-SRV-USG:launched_at", None))


def fault(server: Any) -> str:
    """Nova's reason for its ERROR state."""
    found = getattr(server, "fault", None) or {}
    return " ".join(str(found.get("message") or "no reason was given").split())[:300]


def state(server: Any, ejected: Callable[[Any], bool]) -> MachineState:
    """A server's state as a machine; `ejected`: whether one being installed from a CD has had it ejected."""
    if server is None:
        return MachineState.ABSENT
    if server.status == "ERROR" or power(server) == _CRASHED:
        return MachineState.ERROR
    if server.metadata.get(STAGE) == INSTALLING:
        if server.status == "RESCUE":
            return MachineState.STOPPED if power(server) == _SHUTDOWN else MachineState.RUNNING
        # the CD is ejected only because the installer is done; until that is recorded, it counts as off
        return MachineState.STOPPED if ejected(server) else MachineState.RUNNING
    if server.metadata.get(PARKED) and str(task(server)).startswith(("shelving", "powering-off")):
        return MachineState.PARKED  # soon
    if server.status in _OFF:
        return MachineState.PARKED if server.metadata.get(PARKED) else MachineState.STOPPED
    if server.status == "ACTIVE" and power(server) == _SHUTDOWN and task(server) is None:
        return MachineState.STOPPED
    return MachineState.RUNNING


# What brings back a server that a user has suspended, shelved …, by its status; nothing else works before that.
WAKE: dict[str, Callable[[Any], object]] = {
    "PAUSED": lambda server: server.unpause(),
    "SUSPENDED": lambda server: server.resume(),
    "RESCUE": lambda server: server.unrescue(),
    "SHELVED": lambda server: server.unshelve(),
    "SHELVED_OFFLOADED": lambda server: server.unshelve(),
}


def power_off(server: Any) -> None:
    """Ask Nova for the next step towards powering a server off."""
    wake = None if stage_of(server) == INSTALLING else WAKE.get(server.status)  # its rescue is the installer
    wake(server) if wake is not None else server.stop()


def stage_of(server: Any) -> str:
    """The stage that one of our servers is in."""
    return str(server.metadata.get(STAGE) or "")
