"""A server with as much of Keystone's and Glance's APIs as the store needs, which answers as a test wants.

It is for answers that a real cloud gives only to an administrator, or very rarely; tests/cloud tests what a real cloud does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from imageflow import config
from imageflow.config import Config
from imageflow.config.clouds import OpenStackConfig

PROJECT = "5" * 32  # ours
_SCHEMA = {"name": "image", "properties": {}, "additionalProperties": True}
_CONDITIONS = ("limit", "marker", "visibility", "os_hidden", "sort", "member_status")
Answer = tuple[int, Any]


class Glance:
    """The images in it, our project and role, and what happens before a request is answered."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.images: dict[str, dict[str, Any]] = {}
        self.members: dict[tuple[str, str], str] = {}  # (image, project) -> status
        self.roles = ["member"]
        self.seen: list[str] = []  # 'METHOD PATH?QUERY', in their order
        self.before: Callable[[str], Answer | None] = lambda request: None  # an answer of its own, or None

    def add(self, id: str, **said: Any) -> dict[str, Any]:
        """An image of ours, active."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        image = {
            "id": id,
            "name": id,
            "status": "active",
            "visibility": "private",
            "owner": PROJECT,
            "os_hidden": False,
        }
        image |= {"protected": False, "size": 0, "created_at": now, "updated_at": now, "tags": [], **said}
        self.images[id] = image
        return image

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        if (own := self.before(self.seen[-1])) is not None:
            return own
        if path.startswith("/v3"):
            return self._keystone(method)
        if path in ("/v2/schemas/image", "/v2/schemas/member"):
            return 200, _SCHEMA
        if path == "/v2/images":
            return (201, self._make(json.loads(body))) if method == "POST" else self._page(query)
        match = re.fullmatch(r"/v2/images/([^/]+)(?:/(file|members|tags)(?:/([^/]+))?)?", path)
        if match is None or match[1] not in self.images:
            return 404, None
        image = self.images[match[1]]
        if match[2] == "members":
            status = self.members.get((match[1], match[3]))
            return (404, None) if status is None else (200, {"member_id": match[3], "status": status})
        if match[2] == "tags":
            image["tags"] = [tag for tag in image["tags"] if tag != match[3]] + [match[3]] * (method == "PUT")
            return 204, None
        if match[2] == "file" and method == "GET":
            return 200, image["data"]
        if match[2] == "file":
            hashed = {"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(body).hexdigest()}
            image |= {"status": "active", "size": len(body), **hashed, "data": body}
            return 204, None
        if method == "DELETE" and image["protected"]:
            return 403, None
        if method == "DELETE":
            del self.images[match[1]]
            return 204, None
        for change in json.loads(body) if method == "PATCH" else ():
            image[change["path"][1:].replace("~1", "/").replace("~0", "~")] = change["value"]
        return 200, _shown(image)

    def _make(self, said: dict[str, Any]) -> dict[str, Any]:
        return self.add(said.pop("id"), **{"status": "queued", "size": None, **said})

    def _page(self, query: dict[str, str]) -> Answer:
        """One page, the newest first; 400 when the last image of the page before is gone."""
        found = self._found(query)[::-1]
        found.sort(key=lambda image: str(image["created_at"]), reverse=True)
        if (marker := query.pop("marker", None)) is not None:
            if marker not in self.images:
                return 400, None
            found = found[[image["id"] for image in found].index(marker) + 1 :]
        page = found[: int(query["limit"])]
        more = len(page) == int(query["limit"])
        following = {"next": "/v2/images?" + urlencode({**query, "marker": page[-1]["id"]})} if more else {}
        return 200, {"images": page, **following}

    def _found(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """As in Glance: an administrator sees all images; community images are listed only on request."""
        admin, visibility = "admin" in self.roles, query.get("visibility")
        wanted = {key: value for key, value in query.items() if key not in _CONDITIONS}
        tag = wanted.pop("tag", None)
        found = []
        for image in self.images.values():
            ours = image["owner"] == PROJECT
            offered = self.members.get((image["id"], PROJECT)) == "accepted" and image["visibility"] == "shared"
            if (
                (ours or admin or offered or image["visibility"] in ("public", "community"))
                and visibility in (None, "all", image["visibility"])
                and (visibility is not None or ours or image["visibility"] != "community")
                and (tag is None or tag in image["tags"])
                and str(image["os_hidden"]) == query.get("os_hidden", "False")
                and all(str(image.get(key)) == value for key, value in wanted.items())
            ):
                found.append(_shown(image))
        return found

    def _keystone(self, method: str) -> Answer:
        if method == "GET":
            links = [{"rel": "self", "href": f"{self.url}/v3"}]
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": links}}
        endpoint = {"interface": "public", "region": "here", "region_id": "here", "url": self.url, "id": "e"}
        end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        token = {
            "methods": ["password"],
            "expires_at": end,
            "issued_at": end,
            "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": PROJECT, "name": "p", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": name, "name": name} for name in self.roles],
            "catalog": [{"type": "image", "name": "glance", "id": "g", "endpoints": [endpoint]}],
        }
        return 201, {"token": token}


def _shown(image: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in image.items() if key != "data"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    glance: Glance

    def _do(self) -> None:
        self.glance.seen.append(f"{self.command} {self.path}")
        where = urlsplit(self.path)
        body = self._body()
        status, said = self.glance.answer(self.command, where.path, dict(parse_qsl(where.query)), body)
        content = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        if status == 201 and "token" in said:
            self.send_header("X-Subject-Token", "t")
        if said is not None:
            self.send_header("Content-Type", f"application/{'octet-stream' if isinstance(said, bytes) else 'json'}")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def glance_server() -> Iterator[Glance]:
    """Listen on a port of its own until the end of the block."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.glance = Glance(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Handler.glance
        finally:
            server.shutdown()
            thread.join()


def clouds_yaml(folder: Path, **clouds: Glance) -> Path:
    """A file with these clouds."""
    said = {}
    for name, glance in clouds.items():
        auth = {"auth_url": f"{glance.url}/v3", "username": "u", "password": "p", "project_name": "p"}
        auth |= {"user_domain_id": "default", "project_domain_id": "default"}
        said[name] = {"auth": auth, "region_name": "here", "identity_api_version": 3}
    file = folder / "clouds.yaml"
    file.write_text(json.dumps({"clouds": said}))
    return file


def configured(glance: Glance, folder: Path, patience: float = 5.0) -> Config:
    """A configuration with this server as its cloud."""
    reached = OpenStackConfig("c", None, clouds_yaml(folder, c=glance), 10.0, patience)
    return dataclasses.replace(config.load(state_dir=str(folder / "state")), openstack=reached)
