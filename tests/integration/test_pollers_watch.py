"""The watcher with real files, folders and a real web server."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imageflow.control import Control
from imageflow.errors import ImageflowError, Unavailable
from imageflow.listeners import Surroundings, looking
from imageflow.listeners.watch import Watcher
from imageflow.model import Build, BuildState
from tests.pollers import Site, images, until

BOOT = """images:
  - name: web
    method: boot
    base: {base}
    machine: {{vcpus: 1, memory: 512, disk: 2}}
    configure: [{{shell: 'true'}}]
    on: [{{watch: base}}]
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def quick(around: Surroundings) -> Watcher:
    return Watcher(around, tick=0.02, read=0.1, settle=0.1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", settings="[watch]\nevery = 1")


def look(site: Site) -> list[str]:
    """What a process that has just been started does until all is settled; -> what it can't look at."""
    watcher = Watcher(site.around())
    troubles = []
    for place in watcher._places(site.watched.triggers("watch")):
        try:
            sight = next(filter(None, (watcher._look(place, Control()) for _ in range(5))))
        except ImageflowError as error:
            troubles.append(error.message)
        else:
            watcher.saw(watcher._triggers[place], sight)
    return troubles


def test_a_file_that_changes_and_changes_back(site: Site) -> None:
    file = site.folder / "site.conf"
    file.write_text("one")
    site.register(images(web="{watch: site.conf}"))
    look(site)
    assert site.events() == []
    for text in ("two", "one", "two"):
        file.write_text(text)
        look(site)
        look(site)
    found = site.events()
    assert [(event.data["before"], event.data["after"]) for event in found] == [
        (sha(b"one"), sha(b"two")),
        (sha(b"two"), sha(b"one")),
        (sha(b"one"), sha(b"two")),
    ]
    event = found[0]
    assert (event.source, event.type, event.subject, event.listener) == (
        "imageflow:watch",
        "imageflow.input.changed",
        "web",
        "watch",
    )
    assert (event.data["image"], event.data["input"]) == ("web", "site.conf")
    assert site.asked_for(event) == ["web"]


def test_touched_moved_and_linked_files_are_the_same_file(site: Site) -> None:
    file = site.folder / "site.conf"
    file.write_text("one")
    site.register(images(web="{watch: site.conf}"))
    look(site)
    os.utime(file, (1, 1))
    look(site)
    copy = site.folder / "copy"
    shutil.copy(file, copy)
    copy.replace(file)
    look(site)
    file.rename(copy)
    file.symlink_to(copy)
    look(site)
    assert site.events() == []


def test_killed_between_receive_and_see_is_one_event(site: Site) -> None:
    file = site.folder / "site.conf"
    file.write_text("one")
    site.register(images(web="{watch: site.conf}"))
    look(site)
    before = site.watched.seen("watch:web/site.conf")
    assert before is not None
    file.write_text("two")
    look(site)
    site.watched.see("watch:web/site.conf", before[0])
    look(site)
    [event] = site.events()
    assert event.deliveries == 2


def test_a_folder(site: Site) -> None:
    folder = site.folder / "role"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "main.yml").write_text("one")
    (folder / ".git").mkdir()
    site.register(images(web="{watch: role}"))
    look(site)
    (folder / ".git" / "index").write_text("x")
    os.utime(folder / "tasks" / "main.yml", (1, 1))
    look(site)
    assert site.events() == []
    (folder / "tasks" / "main.yml").write_text("two")
    look(site)
    (folder / "new").write_text("")
    look(site)
    (folder / "new").chmod(0o755)
    look(site)
    (folder / "new").unlink()
    look(site)
    assert len(site.events()) == 4


def test_what_is_not_there_or_odd_says_so_and_fires_nothing(site: Site) -> None:
    file = site.folder / "site.conf"
    file.write_text("one")
    site.register(images(web="{watch: site.conf}"))
    look(site)
    file.unlink()
    assert look(site) == [f"{file} is not there"]
    os.mkfifo(file)
    assert look(site) == [f"{file} is neither a file nor a folder"]
    file.unlink()
    file.symlink_to(file)
    assert "can't be read" in look(site)[0]
    file.unlink()
    file.write_text("one")
    assert look(site) == []
    assert site.events() == []
    file.write_text("two")
    look(site)
    assert len(site.events()) == 1


def test_a_file_that_is_being_written_waits_until_it_is_whole(site: Site) -> None:
    file = site.folder / "disk"
    file.write_bytes(b"old")
    site.register(images(web="{watch: disk, every: 1}"))
    with site.running(quick):
        until(lambda: site.watched.seen("watch:web/disk"))
        with file.open("wb") as out:
            for _ in range(60):
                out.write(b"x" * 1000)
                out.flush()
                time.sleep(0.05)
        until(site.events)
    [event] = site.events()
    assert event.data["after"] == sha(b"x" * 60000)


def test_two_running_watchers_are_one_event(site: Site) -> None:
    file = site.folder / "disk"
    file.write_bytes(b"old")
    site.register(images(web="{watch: disk, every: 1}", db="{watch: disk}"))
    with site.running(quick), site.running(quick):
        until(lambda: site.watched.seen("watch:web/disk") and site.watched.seen("watch:db/disk"))
        file.write_bytes(b"new")
        until(lambda: len(site.events()) == 2)
        time.sleep(1.5)  # both have looked again
    assert sorted(str(event.subject) for event in site.events()) == ["db", "web"]


def built(site: Site, pins: dict[str, str]) -> None:
    """A build that succeeded with these pins is in the database."""
    from imageflow.persistence import builds

    now = time.time()
    build = Build(
        id="0" * 12,
        image="web",
        method="dib",
        key="k" * 64,
        recipe={},
        pins=pins,
        state=BuildState.SUCCEEDED,
        created=now,
        reason="test",
        flow="f",
    )
    with site.database.begin() as conn:
        builds.insert(conn, build, claim=False)


def test_a_change_while_nobody_watched_is_made_up_for(site: Site) -> None:
    (site.folder / "site.conf").write_text("new")
    (site.folder / "same.conf").write_text("same")
    (site.folder / "never.conf").write_text("x")
    site.register(images(web="{watch: ./site.conf}, {watch: same.conf}, {watch: never.conf}"))
    built(site, {"file:site.conf": sha(b"old"), "file:same.conf": sha(b"same")})
    look(site)
    look(site)
    [event] = site.events()
    assert (event.data["input"], event.data["before"], event.data["after"]) == ("site.conf", sha(b"old"), sha(b"new"))


def test_folders_that_changed_while_nobody_watched(site: Site) -> None:
    from imageflow.pins.elements import tree_digest

    for name in ("role", "same", "element"):
        (site.folder / name).mkdir()
        (site.folder / name / "main.yml").write_text("new")
    site.register(images(web="{watch: role}, {watch: same}, {watch: element}"))
    built(
        site,
        {
            "file:role/main.yml": sha(b"old"),
            "file:same/main.yml": sha(b"new"),
            "element:element": tree_digest(site.folder / "same"),
        },
    )
    look(site)
    assert [event.data["input"] for event in site.events()] == ["role"]
    (site.folder / "element" / "main.yml").write_text("newer")
    look(site)
    assert [event.data["input"] for event in site.events()] == ["role", "element"]


def test_the_file_of_a_base(site: Site) -> None:
    base = site.folder / "base.qcow2"
    base.write_bytes(b"new")
    site.register(BOOT.format(base="{file: base.qcow2}"))
    built(site, {"base:file": sha(b"old")})
    look(site)
    base.write_bytes(b"newer")
    look(site)
    assert [event.data["input"] for event in site.events()] == ["base", "base"]
    assert [event.data["before"] for event in site.events()] == [sha(b"old"), sha(b"new")]


@dataclass
class Web:
    """What a web server says about the one file that it has."""

    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"', "Content-Length": "1000000000"})
    code: int = 200
    head: bool = True
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    body: bytes = b""


@pytest.fixture
def web() -> Iterator[Web]:
    told = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            told.seen.append("HEAD")
            self.answer(told.code if told.head else 405)

        def do_GET(self) -> None:
            told.seen.append("GET")
            self.answer(told.code)
            if told.body:
                self.wfile.write(told.body)
                return
            try:
                while not told.head:
                    self.wfile.write(b"x" * 65536)
                    told.sent += 65536
            except OSError:
                pass

        def answer(self, code: int) -> None:
            if self.path.endswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/disk.qcow2")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(code)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/disk.qcow2"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_asked_about_and_not_fetched(site: Site, web: Web) -> None:
    site.register(images(web=f"{{watch: '{web.url}?token=1'}}"))
    look(site)
    look(site)
    assert site.events() == []
    web.headers["ETag"] = '"two"'
    look(site)
    [event] = site.events()
    assert event.data["input"] == f"{web.url}?token=1"
    assert site.asked_for(event) == ["web"]
    assert '\\"one\\"' in event.data["before"] and '\\"two\\"' in event.data["after"]
    assert set(web.seen) == {"HEAD"}


def test_a_server_without_head_sends_next_to_nothing(site: Site, web: Web) -> None:
    web.head = False
    site.register(images(web=f"{{watch: '{web.url}'}}"))
    assert look(site) == []
    web.headers = {"Last-Modified": "Tue, 05 May 2026 00:00:00 GMT"}
    look(site)
    assert len(site.events()) == 1
    assert web.seen == ["HEAD", "GET"] * 2
    assert web.sent < 16 << 20


def test_mirrors_with_etags_of_their_own_are_the_same(site: Site, web: Web) -> None:
    web.headers = {"Last-Modified": "Tue, 05 May 2026 00:00:00 GMT", "Content-Length": "5", "ETag": '"a"'}
    site.register(images(web=f"{{watch: '{web.url}'}}"))
    for tag in ("a", "b", "a", "c"):
        web.headers["ETag"] = f'"{tag}"'
        look(site)
    assert site.events() == []
    web.headers["Last-Modified"] = "Wed, 06 May 2026 00:00:00 GMT"
    web.headers["ETag"] = '"d"'
    look(site)
    assert len(site.events()) == 1


@pytest.mark.parametrize("code", [404, 401, 500, 429])
def test_a_server_that_says_no(site: Site, web: Web, code: int) -> None:
    site.register(images(web=f"{{watch: '{web.url}?token=secret'}}"))
    look(site)
    web.code = code
    web.headers["ETag"] = '"error page"'
    assert look(site) == [f"{web.url} answered {code}"]
    assert site.events() == []


def test_a_server_that_says_nothing_of_use_or_is_not_there(site: Site, web: Web) -> None:
    web.headers = {}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        site.register(images(web=f"{{watch: '{web.url}'}}", db=f"{{watch: '{url}'}}"))
        troubles = look(site)
    assert sorted("does not answer" in trouble for trouble in troubles) == [False, True]
    assert any("its changes can't be seen" in trouble for trouble in troubles)


def test_a_server_that_answers_letter_by_letter_is_given_up(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            sock, _ = server.accept()
            with sock:
                while not stop.wait(0.05):
                    sock.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Unavailable, match="does not come to an end"):
            looking.url(f"http://127.0.0.1:{server.getsockname()[1]}/x?token=secret", patience=0.5)
        stop.set()
        thread.join()


def test_redirects_are_followed(site: Site, web: Web) -> None:
    site.register(images(web=f"{{watch: '{web.url}/moved'}}"))
    assert look(site) == []
    web.headers["ETag"] = '"two"'
    look(site)
    assert len(site.events()) == 1


def test_a_base_with_published_checksums(site: Site, web: Web) -> None:
    old, new = sha(b"old"), sha(b"new")
    web.headers = {}
    web.body = f"{old}  disk.qcow2\n".encode()
    sums = web.url.replace("disk.qcow2", "SHA256SUMS")
    site.register(BOOT.format(base=f"{{url: '{web.url}', checksums: '{sums}'}}"))
    built(site, {"base:url": old})
    assert look(site) == []
    assert site.events() == []
    web.body = f"{new}  disk.qcow2\n".encode()
    look(site)
    [event] = site.events()
    assert (event.data["input"], event.data["before"], event.data["after"]) == ("base", old, new)
    assert site.asked_for(event) == ["web"]


def test_trouble_is_told_once_and_the_others_go_on(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.conf", "b.conf"):
        (site.folder / name).write_text("one")
    site.register(images(web="{watch: a.conf, every: 1}, {watch: b.conf, every: 1}"))
    (site.folder / "a.conf").unlink()

    def again(watcher: Callable[[Surroundings], Watcher]) -> None:
        with site.running(watcher):
            until(lambda: site.watched.seen("watch:web/b.conf"))
            time.sleep(3.5)
            (site.folder / "b.conf").write_text("two")
            until(site.events)

    again(quick)
    assert caplog.text.count("a.conf") == 2, "its name and its path, in one line"
    assert "'a.conf' of image web can't be looked at" in caplog.text
