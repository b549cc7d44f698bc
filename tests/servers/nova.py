"""A server with as much of Nova's and Neutron's APIs as the driver needs; it allows each action in the same states as Nova.

It is for moments that are very rare in a real cloud; tests/cloud tests what a real cloud does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from imageflow import config
from imageflow.config import Config
from imageflow.config.clouds import OpenStackConfig
from tests.servers.glance import Answer, Glance, _Handler, clouds_yaml

# action -> the states in which Nova allows it, and the state and power state after it; as in nova/compute/api.py
_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, int]]] = {
    "os-start": (("SHUTOFF",), ("ACTIVE", 1)),
    "os-stop": (("ACTIVE", "ERROR"), ("SHUTOFF", 4)),
    "pause": (("ACTIVE",), ("PAUSED", 3)),
    "unpause": (("PAUSED",), ("ACTIVE", 1)),
    "suspend": (("ACTIVE",), ("SUSPENDED", 4)),
    "resume": (("SUSPENDED",), ("ACTIVE", 1)),
    "rescue": (("ACTIVE", "SHUTOFF", "ERROR"), ("RESCUE", 1)),
    "unrescue": (("RESCUE",), ("ACTIVE", 1)),
    "reboot": (("ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "ERROR"), ("ACTIVE", 1)),
    "shelve": (("ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED"), ("SHELVED_OFFLOADED", 4)),
    "unshelve": (("SHELVED", "SHELVED_OFFLOADED"), ("ACTIVE", 1)),
}
_DESCRIBED = ("ACTIVE", "PAUSED", "SUSPENDED", "SHUTOFF")  # states in which metadata can be changed and snapshots made
PORT = "port-of-"


class Nova(Glance):
    """The contents of the cloud, and what happens before a request is answered."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.servers: dict[str, dict[str, Any]] = {}
        self.forbidden: set[str] = set()  # actions that a policy does not allow
        self.acted: list[str] = []  # the actions that were done
        self.keypairs: dict[str, str] = {}
        self.floating: list[dict[str, Any]] = []
        self.quota = 10  # servers
        self.snapshots = True  # whether actions that began complete
        self.heard = True  # whether requests reach the hosts
        self.console = ""
        self.add("base", disk_format="qcow2", size=1 << 20, name="somebody's")

    def server(self, name: str, status: str = "ACTIVE", power: int = 1, **more: Any) -> dict[str, Any]:
        """A server that is there."""
        id = str(uuid.uuid4())
        made = {"id": id, "name": name, "status": status, "metadata": {}, "image": {"id": "base"}, "addresses": {}}
        made |= {"created": f"2026-01-01T00:00:{len(self.servers):02}Z", "OS-EXT-STS:task_state": None}
        made |= {"OS-EXT-STS:power_state": power, "OS-SRV-USG:launched_at": "2026-01-01T00:00:00.000000", **more}
        self.servers[id] = made
        return made

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        if path.startswith("/v2.") and (own := self.before(self.seen[-1])) is not None:
            return own
        if path.startswith("/v2.1"):
            return self._nova(method, path.removeprefix("/v2.1"), query, json.loads(body) if body else {})
        if path.startswith("/v2.0"):
            return self._neutron(method, path.removeprefix("/v2.0/"), query, json.loads(body) if body else {})
        if tagged := re.fullmatch("/v2/images/([^/]+)/tags/([^/]+)", path):
            return self._tag(method, tagged[1], tagged[2])
        if method == "PATCH" and (image := self.images.get(path.rpartition("/")[2])) is not None:
            changes = json.loads(body)
            for change in changes:
                if change["op"] == "remove":
                    del image[change["path"][1:]]
            body = json.dumps([change for change in changes if change["op"] != "remove"]).encode()
        answer = super().answer(method, path, query, body)
        if path == "/v3/auth/tokens":
            for type, version in (("compute", "/v2.1"), ("network", "")):
                endpoint = {"interface": "public", "region": "here", "region_id": "here", "id": type}
                endpoint["url"] = f"{self.url}{version}"
                answer[1]["token"]["catalog"].append({"type": type, "name": type, "id": type, "endpoints": [endpoint]})
        return answer

    def _tag(self, method: str, id: str, tag: str) -> Answer:
        if (image := self.images.get(id)) is None or (method == "DELETE" and tag not in image["tags"]):
            return 404, None
        image["tags"] = [other for other in image["tags"] if other != tag] + ([tag] if method == "PUT" else [])
        return 204, None

    def _found(self, query: dict[str, str]) -> list[dict[str, Any]]:
        tag = query.pop("tag", None)
        return [image for image in super()._found(query) if tag is None or tag in image["tags"]]

    def _nova(self, method: str, path: str, query: dict[str, str], said: dict[str, Any]) -> Answer:
        if path in ("", "/"):
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1", "links": []}
            return 200, {"version": version}
        if path == "/flavors/detail":
            flavor = {"id": "f1", "name": "small", "vcpus": 1, "ram": 512, "disk": 1}
            return 200, {"flavors": [flavor]}
        if path.startswith("/os-keypairs"):
            return self._keypair(method, path.removeprefix("/os-keypairs").strip("/"), said)
        if path == "/servers/detail":
            wanted = re.compile(query.get("name", ""))
            found = [s for s in self.servers.values() if "marker" not in query and wanted.search(str(s.get("name")))]
            return 200, {"servers": found}
        if path == "/servers":
            if len(self.servers) >= self.quota:
                return 403, {"forbidden": {"code": 403, "message": "Quota exceeded for instances"}}
            asked = said["server"]
            made = self.server(asked["name"], metadata=asked["metadata"], image={"id": asked["imageRef"]})
            return 202, {"server": {"id": made["id"]}}
        _, _, id, *rest = path.split("/")
        if (server := self.servers.get(id)) is None:
            return 404, {"itemNotFound": {"code": 404, "message": f"Instance {id} could not be found."}}
        if rest[:1] == ["os-instance-actions"]:
            return _actions(server, *rest[1:])
        if method == "DELETE":
            del self.servers[id]
            return 204, None
        if rest == ["metadata"]:
            if server["status"] not in _DESCRIBED:
                return _conflict("update_instance_metadata", server)
            server["metadata"] |= said["metadata"]
            return 200, {"metadata": server["metadata"]}
        return self._act(server, said) if rest == ["action"] else (200, {"server": server})

    def _act(self, server: dict[str, Any], said: dict[str, Any]) -> Answer:
        (action,) = said
        if action == "os-getConsoleOutput":
            return 200, {"output": self.console}
        if server["OS-EXT-STS:task_state"] is not None:
            return _conflict(action, server)
        if not self.heard:
            server["OS-EXT-STS:task_state"] = "image_snapshot_pending" if action == "createImage" else f"{action}-ing"
            server.setdefault("acted", []).append((action.removeprefix("os-"), []))
            if action == "createImage":
                self.add("queued", name=said[action]["name"], status="queued", **said[action]["metadata"])
            return 202, {"image_id": "queued"}
        if action == "createImage":
            if server["status"] not in _DESCRIBED:
                return _conflict(action, server)
            self.acted.append(action)
            if self.snapshots:
                about = said[action]["metadata"] | {"image_type": "snapshot", "disk_format": "qcow2"}
                self.add(str(uuid.uuid4()), **{**about, "name": said[action]["name"]})
            return 202, {"image_id": "made"}
        if action in self.forbidden:
            return 403, {"forbidden": {"code": 403, "message": f"Policy doesn't allow {action} to be performed."}}
        allowed, (status, power) = _ACTIONS[action]
        if server["status"] not in allowed:
            return _conflict(action, server)
        self.acted.append(action)
        server.setdefault("acted", []).append((action.removeprefix("os-"), [{"event": f"compute_{action}"}]))
        server |= {"status": status, "OS-EXT-STS:power_state": power}
        return 202, None

    def _keypair(self, method: str, name: str, said: dict[str, Any]) -> Answer:
        if method == "POST":
            self.keypairs[said["keypair"]["name"]] = said["keypair"]["public_key"]
            return 201, {"keypair": said["keypair"]}
        if not name:
            return 200, {"keypairs": [{"keypair": {"name": n, "public_key": k}} for n, k in self.keypairs.items()]}
        if name not in self.keypairs:
            return 404, {"itemNotFound": {"code": 404, "message": f"Keypair {name} not found"}}
        if method == "DELETE":
            del self.keypairs[name]
            return 204, None
        return 200, {"keypair": {"name": name, "public_key": self.keypairs[name]}}

    def _neutron(self, method: str, path: str, query: dict[str, str], said: dict[str, Any]) -> Answer:
        if path == "networks":
            inside = {"id": "n1", "name": "inside", "router:external": False}
            outside = {"id": "n2", "name": "outside", "router:external": True}
            return 200, {"networks": [outside] if "router:external" in query else [inside, outside]}
        if path == "ports":
            return 200, {"ports": [{"id": PORT + query["device_id"]}]}
        if method == "POST":
            asked = said["floatingip"]
            if any(entry["port_id"] == asked["port_id"] for entry in self.floating):
                return 409, {"NeutronError": {"message": "the port has a floating address"}}
            self.floating.append({"id": f"floating-{len(self.floating)}", **asked})
            return 201, {"floatingip": self.floating[-1]}
        if method == "PUT":
            (entry,) = (e for e in self.floating if path.endswith(e["id"]))
            entry |= said["floatingip"]
            return 200, {"floatingip": entry}
        return 200, {"floatingips": [e for e in self.floating if e["description"] == query["description"]]}


def _actions(server: dict[str, Any], wanted: str = "") -> Answer:
    """The actions of a server, the newest first, or one of them with its host's events; as in the API since 2.51."""
    found = {
        f"req-{number}": {"action": action, "start_time": f"2026-01-01T00:00:{number:02}.000000", "events": events}
        for number, (action, events) in enumerate(server.get("acted", []))
    }
    if wanted:
        return 200, {"instanceAction": {"request_id": wanted, **found[wanted]}}
    listed = [{"request_id": id, "action": one["action"], "start_time": one["start_time"]} for id, one in found.items()]
    return 200, {"instanceActions": listed[::-1]}


def _conflict(what: str, server: dict[str, Any]) -> Answer:
    message = f"Cannot '{what}' instance {server['id']} while it is in vm_state {server['status'].lower()}"
    return 409, {"conflictingRequest": {"code": 409, "message": message}}


@contextlib.contextmanager
def nova_server() -> Iterator[Nova]:
    """Listen on a port of its own until the end of the block."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        nova = Handler.glance = Nova(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield nova
        finally:
            server.shutdown()
            thread.join()


def configured(nova: Nova, folder: Path, patience: float = 5.0, **options: Any) -> Config:
    """A configuration with this server as its cloud; `options` of [nova]."""
    reached = OpenStackConfig("c", None, clouds_yaml(folder, c=nova), 10.0, patience)
    loaded = config.load(state_dir=str(folder / "state"))
    quick = dataclasses.replace(loaded.nova, **{"poll": 0.1, **options})
    return dataclasses.replace(loaded, compute="nova", openstack=reached, nova=quick)
