"""The post-receive hook: real pushes into a real repository, and a real HTTP receiver."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imageflow.api.envelopes import events_of
from imageflow.api.server import HttpListener
from imageflow.events.triggers import git_source
from tests.small.polled import GIT, Site, git

HOOK = Path(__file__).parents[2] / "etc" / "git" / "post-receive"


@dataclass
class Receiver:
    """What was posted, and how it is answered."""

    code: int = 202
    hold: threading.Event | None = None
    posts: list[tuple[dict[str, str], list[dict[str, Any]]]] = field(default_factory=list)
    url: str = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, events in self.posts for event in events]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    told = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/events"
            headers = {name.lower(): value for name, value in self.headers.items()}
            events_of("batch", list(headers.items()), body)  # what the real one does with it
            told.posts.append((headers, json.loads(body)))
            if told.hold is not None:
                told.hold.wait(30)
            self.send_response(told.code)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield told
    if told.hold is not None:
        told.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


class Hooked:
    """A bare repository with the hook, and a clone."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path = folder / "my infra.git"
        self.work = folder / "work"
        git("init", "-q", "--bare", "-b", "main", self.path)
        git("init", "-q", "-b", "main", self.work)
        git("remote", "add", "origin", self.path, at=self.work)
        shutil.copy2(HOOK, self.path / "hooks" / "post-receive")
        self.set("url", url)
        self.set("token", "open sesame")
        self.set("timeout", "5")

    def set(self, name: str, value: str) -> None:
        git("config", f"imageflow.{name}", value, at=self.path)

    def commit(self) -> str:
        git("commit", "-q", "--allow-empty", "-m", "x", at=self.work)
        return git("rev-parse", "HEAD", at=self.work)

    def push(self, *refs: str) -> str:
        """-> what the hook says."""
        done = subprocess.run(
            ["git", "push", "-q", "--force", "origin", *refs],
            cwd=self.work,
            env=GIT | {"GL_USERNAME": "jane"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if "imageflow" in line]
        assert len(said) <= 1, done.stderr
        assert "sesame" not in done.stderr and "Traceback" not in done.stderr
        return said[0].removeprefix("remote: imageflow: ").strip() if said else ""

    @property
    def spool(self) -> list[Path]:
        return sorted((self.path / "imageflow-spool").glob("*"))


@pytest.fixture
def hooked(tmp_path: Path, receiver: Receiver) -> Hooked:
    return Hooked(tmp_path, receiver.url)


def test_a_push_is_told(hooked: Hooked, receiver: Receiver) -> None:
    first = hooked.commit()
    assert hooked.push("main") == "told of 1 change"
    [(headers, [event])] = receiver.posts
    assert headers["content-type"] == "application/cloudevents-batch+json"
    assert headers["authorization"] == "Bearer open sesame"
    source = f"file://{hooked.path}".replace(" ", "%20")
    assert source == git_source(source)
    assert (event["source"], event["type"], event["subject"]) == (source, "git.push", "refs/heads/main")
    assert event["id"].startswith(f"refs/heads/main@-..{first}@")
    assert event["data"] == {
        "repository": "my infra",
        "owner": "",
        "ref": "refs/heads/main",
        "branch": "main",
        "tag": None,
        "before": None,
        "after": first,
        "pusher": "jane",
        "url": source,
    }
    assert hooked.spool == []


def test_branches_tags_and_deletions_in_one_post(hooked: Hooked, receiver: Receiver) -> None:
    hooked.set("repository", "https://jane@git.example.org/acme/tools/infra.git")
    hooked.commit()
    git("tag", "v1", at=hooked.work)
    assert hooked.push("main", "main:refs/heads/weird-\u00e4\"'`$(x)", "v1") == "told of 3 changes"
    assert hooked.push(":v1", ":refs/heads/weird-\u00e4\"'`$(x)") == "told of 2 changes"
    assert [len(events) for _, events in receiver.posts] == [3, 2]
    kinds = {(event["type"], event["data"]["branch"], event["data"]["tag"]) for event in receiver.events}
    weird = "weird-\u00e4\"'`$(x)"
    assert kinds == {
        ("git.push", "main", None),
        ("git.push", weird, None),
        ("git.tag", None, "v1"),
        ("git.delete", weird, None),
        ("git.delete", None, "v1"),
    }
    for event in receiver.events:
        assert event["data"]["url"] == "https://git.example.org/acme/tools/infra.git"
        assert event["source"] == git_source("https://jane@git.example.org/acme/tools/infra.git")
        assert (event["data"]["owner"], event["data"]["repository"]) == ("acme/tools", "infra")
        assert event["id"].isascii() and " " not in event["id"] and '"' not in event["id"]
    assert len({event["id"] for event in receiver.events}) == 5


def test_back_and_forth_is_an_event_each_time(hooked: Hooked, receiver: Receiver) -> None:
    one, two = hooked.commit(), hooked.commit()
    for commit in (one, two, one, two):
        hooked.push(f"{commit}:refs/heads/main")
    assert [event["data"]["after"] for event in receiver.events] == [one, two, one, two]
    assert len({event["id"] for event in receiver.events}) == 4


def test_what_can_not_be_sent_goes_with_the_next_push_under_the_same_id(hooked: Hooked, receiver: Receiver) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hooked.set("url", f"http://127.0.0.1:{closed.getsockname()[1]}")
        first = hooked.commit()
        said = hooked.push("main")
    assert said.startswith("1 push kept for the next one; 127.0.0.1:")
    assert "refused" in said
    [kept] = hooked.spool
    [event] = json.loads(kept.read_text())
    hooked.set("url", receiver.url)
    receiver.code = 503
    second = hooked.commit()
    assert "2 pushes kept for the next one" in hooked.push("main")
    receiver.code = 202
    receiver.posts.clear()
    third = hooked.commit()
    assert hooked.push("main") == "told of 3 changes, 2 of them from before"
    assert [event["data"]["after"] for event in receiver.events] == [first, second, third], "in the order of pushes"
    assert receiver.events[0]["id"] == event["id"]
    assert hooked.spool == []


@pytest.mark.parametrize("code", [401, 403, 302, 307, 500, 429])
def test_answers_that_may_change(hooked: Hooked, receiver: Receiver, code: int) -> None:
    receiver.code = code
    hooked.commit()
    assert f"it answered {code}" in hooked.push("main")
    assert len(hooked.spool) == 1


def test_what_is_refused_for_good_does_not_wait(hooked: Hooked, receiver: Receiver) -> None:
    receiver.code = 400
    hooked.commit()
    said = hooked.push("main")
    assert "1 refused" in said and "it answered 400" in said
    assert hooked.spool == []


def test_a_server_that_hangs_does_not_hold_a_push_for_long(hooked: Hooked, receiver: Receiver) -> None:
    receiver.hold = threading.Event()
    hooked.set("timeout", "1")
    hooked.commit()
    began = time.monotonic()
    said = hooked.push("main")
    assert time.monotonic() - began < 10
    assert "does not answer" in said
    assert "1 push kept" in said


def test_a_spool_that_can_not_be_written_or_read(hooked: Hooked, receiver: Receiver) -> None:
    spool = hooked.path / "imageflow-spool"
    spool.write_text("in the way")
    hooked.commit()
    assert hooked.push("main").startswith("told of 1 change; 127.0.0.1:")
    spool.unlink()
    spool.mkdir()
    (spool / "00000000000000000001-1.json").write_text("rubbish")
    (spool / "unrelated").write_text("")
    hooked.commit()
    assert "told of 1 change" in hooked.push("main")
    assert len(receiver.events) == 2


def test_without_configuration_nothing_is_sent(hooked: Hooked, receiver: Receiver) -> None:
    git("config", "--unset", "imageflow.url", at=hooked.path)
    hooked.commit()
    assert hooked.push("main") == "nothing is sent: git config imageflow.url is not set"
    assert receiver.posts == []


def test_with_the_real_listener(tmp_path: Path) -> None:
    """Into the inbox and no further; sent twice, it is there once."""
    site = Site(tmp_path / "site", settings="[api]\nlisten = 127.0.0.1:0\n[events]\ntoken = open sesame")
    with site.running(HttpListener):
        hooked = Hooked(tmp_path, site.told)
        hooked.commit()
        hooked.set("token", "wrong")
        assert "it answered 401: git config imageflow.token" in hooked.push("main")
        [kept] = hooked.spool
        git("config", "--unset", "imageflow.token", at=hooked.path)
        hooked.set("tokenfile", str(tmp_path / "token"))
        hooked.commit()
        assert "tokenfile" in hooked.push("main"), "there is no such file"
        (tmp_path / "token").write_text("open sesame\n")
        again = kept.read_bytes()
        commit = hooked.commit()
        assert hooked.push("main") == "told of 3 changes, 2 of them from before"
        kept.write_bytes(again)  # as if it had been killed after it was sent
        git("tag", "v\u00e4", at=hooked.work)
        assert hooked.push("v\u00e4") == "told of 2 changes, 1 of them from before"
    found = site.events()
    pushes = [("git.push", 2), ("git.push", 1), ("git.push", 1)]
    assert [(event.type, event.deliveries) for event in found] == [*pushes, ("git.tag", 1)]
    assert found[2].data["after"] == commit


def test_many_refs_at_once(hooked: Hooked, receiver: Receiver) -> None:
    commit = hooked.commit()
    lines = "".join(f"create refs/tags/t{n} {commit}\n" for n in range(1200))
    subprocess.run(["git", "update-ref", "--stdin"], cwd=hooked.work, env=GIT, input=lines, text=True, check=True)
    assert hooked.push("--tags") == "told of 1200 changes"
    assert [len(events) for _, events in receiver.posts] == [500, 500, 200]
