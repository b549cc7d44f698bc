"""The poller of refs with real repositories."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from imageflow.listeners.git import GitPoller, environment
from tests.small.polled import Site, git, images, until


class Repository:
    """A bare repository, and a clone that pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "infra.git"
        self.work = folder / "work"
        git("init", "-q", "--bare", "-b", "main", self.path)
        git("init", "-q", "-b", "main", self.work)
        git("remote", "add", "origin", self.path, at=self.work)
        self.commit()

    def commit(self, branch: str = "main") -> str:
        git("checkout", "-q", "-B", branch, at=self.work)
        git("commit", "-q", "--allow-empty", "-m", "x", at=self.work)
        git("push", "-q", "--force", "origin", branch, at=self.work)
        return git("rev-parse", "HEAD", at=self.work)

    def head(self, ref: str = "refs/heads/main") -> str:
        return git("rev-parse", ref, at=self.path)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "git")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", settings="[git]\nevery = 1\ntimeout = 10")


def poll(site: Site) -> None:
    """What a process that has just been started does at its first look."""
    poller = GitPoller(site.around())
    from imageflow.host.control import Control

    for source in poller._places(site.watched.triggers("git")):
        poller.answered(source, poller._ask(source, Control()))


def test_pushes_tags_and_deletions(site: Site, repository: Repository) -> None:
    url = f"file://{repository.path}"
    site.register(images(web=f"{{git: '{url}', ref: main}}", db=f"{{git: '{url}', ref: 'refs/*'}}"))
    old = repository.head()
    poll(site)
    assert site.events() == [], "the first time is a baseline"
    new = repository.commit()
    repository.commit("dev")
    git("tag", "-a", "v1", "-m", "one", at=repository.work)
    git("push", "-q", "origin", "v1", at=repository.work)
    poll(site)
    poll(site)
    found = {event.subject: event for event in site.events()}
    assert {ref: event.type for ref, event in found.items()} == {
        "refs/heads/main": "git.push",
        "refs/heads/dev": "git.push",
        "refs/tags/v1": "git.tag",
    }
    push = found["refs/heads/main"]
    assert (push.data["before"], push.data["after"], push.data["repository"]) == (old, new, "infra")
    assert (push.source, push.listener, push.deliveries) == (url, "git", 1)
    assert {ref: site.asked_for(event) for ref, event in found.items()} == {
        "refs/heads/main": ["db", "web"],
        "refs/heads/dev": ["db"],
        "refs/tags/v1": ["db"],
    }
    git("push", "-q", "origin", ":dev", ":v1", at=repository.work)
    poll(site)
    gone = [(event.type, event.subject) for event in site.events()[3:]]
    assert [site.asked_for(event) for event in site.events()[3:]] == [[], []], "what is gone builds nothing"
    assert gone == [("git.delete", "refs/heads/dev"), ("git.delete", "refs/tags/v1")]


def test_back_and_forth_is_an_event_each_time(site: Site, repository: Repository) -> None:
    site.register(images(web=f"{{git: '{repository.path}', ref: main}}"))
    poll(site)
    first = repository.head()
    second = repository.commit()
    for commit in (second, first, second, first):
        git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main", at=repository.work)
        poll(site)
    assert [event.data["after"] for event in site.events()] == [second, first, second, first]


def test_killed_between_receive_and_see_is_one_event(site: Site, repository: Repository) -> None:
    site.register(images(web=f"{{git: '{repository.path}', ref: main}}"))
    poll(site)
    before = site.watched.seen(f"git:{repository.path}")
    assert before is not None
    repository.commit()
    poll(site)
    site.watched.see(f"git:{repository.path}", before[0])  # as if it had died before it remembered
    poll(site)
    [event] = site.events()
    assert event.deliveries == 2


def test_only_refs_that_recipes_name(site: Site, repository: Repository) -> None:
    site.register(images(web=f"{{git: '{repository.path}', ref: 'release/*'}}"))
    poll(site)
    repository.commit()
    repository.commit("release/1")
    poll(site)
    assert [event.subject for event in site.events()] == ["refs/heads/release/1"]


def test_two_running_pollers_and_a_repository_that_is_away_for_a_while(
    site: Site, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    broken = site.folder / "gone.git"
    site.register(
        images(web=f"{{git: '{repository.path}', ref: main}}", db=f"{{git: 'file://{broken}', ref: main, every: 1}}")
    )
    with site.running(GitPoller), site.running(GitPoller):
        until(lambda: site.watched.seen(f"git:{repository.path}"))
        commits = [repository.commit() for _ in range(1)]
        until(site.events)
        until(lambda: "gone.git" in caplog.text)
        shutil.copytree(repository.path, broken)
        until(lambda: site.watched.seen(f"git:file://{broken}"))
    assert [event.data["after"] for event in site.events()] == commits
    assert caplog.text.count("can't be looked at") == 2, "each of the two says it once"


def test_new_recipes_are_noticed(site: Site, repository: Repository) -> None:
    with site.running(GitPoller):
        site.register(images(web=f"{{git: '{repository.path}', ref: main}}"))
        until(lambda: site.watched.seen(f"git:{repository.path}"))


def test_a_server_that_says_nothing_is_given_up_and_ends_with_the_poller(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        site.register(images(web=f"{{git: 'git://127.0.0.1:{port}/infra', ref: main}}"))
        accepted: list[socket.socket] = []
        threading.Thread(target=lambda: accepted.append(server.accept()[0]), daemon=True).start()
        with site.running(GitPoller):
            until(lambda: accepted)
            before = _children()
            assert any("ls-remote" in line for line in before)
        assert not any("ls-remote" in line for line in _children())
        accepted[0].close()


def _children() -> list[str]:
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_nobody_is_asked_and_no_other_way_is_taken(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wants a password; and what would be run, were it not for the list of protocols."""
    asked = tmp_path / "asked"
    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("GIT_ASKPASS", str(program))
    monkeypatch.setenv("SSH_ASKPASS", str(program))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    for url in (f"ext::sh -c touch% {asked}", f"fd::{asked}", "https://127.0.0.1:1/x"):
        done = subprocess.run(
            ["git", "ls-remote", "--", url], env=environment(), capture_output=True, timeout=30, cwd="/"
        )
        assert done.returncode != 0
    assert not asked.exists()
    with _Locked() as port:
        done = subprocess.run(
            ["git", "-c", "credential.helper=", "ls-remote", "--", f"http://127.0.0.1:{port}/x.git"],
            env=environment(),
            capture_output=True,
            timeout=30,
            cwd="/",
        )
    assert done.returncode != 0
    assert not asked.exists()
    assert "GIT_DIR" not in environment()


class _Locked:
    """A web server that asks everybody for a password."""

    def __enter__(self) -> int:
        from http.server import BaseHTTPRequestHandler, HTTPServer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self.server.server_address[1]

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
