"""The watcher with real files and folders: each change of what they hold is one event, and trouble is none."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest

from imageflow.listeners import Surroundings
from imageflow.listeners.watch import Watcher
from tests.integration.watch.watched_site import look, quick, sha
from tests.small.polled import Site, images, until


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
