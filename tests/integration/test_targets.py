"""Publication targets: folders that are away, publishers that are killed, stopped and doubled; the program's words."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.errors import ConfigError, NotFound
from imageflow.host import scratch
from imageflow.host.control import Control
from imageflow.images import publisher
from imageflow.persistence import publications
from imageflow.persistence.tables import versions as table
from imageflow.stores import targets
from imageflow.stores.directory import DirectoryStore
from tests.small.publishing import ONE, Place, entries
from tests.small.site import Site
from tests.small.yard import Yard, open_yard


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Site(tmp_path, lease=8) as site:
        made = Place(site)
        made.configured()
        for folder in made.folders.values():
            folder.mkdir()
        try:
            yield made
        finally:
            made.close()


def down(folder: Path) -> None:
    """A mount that is gone."""
    folder.rename(folder.with_name(f"{folder.name}-away"))
    folder.write_text("not a folder")


def back(folder: Path) -> None:
    folder.unlink()
    folder.with_name(f"{folder.name}-away").rename(folder)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    options = {"publish__targets": entries(tmp_path), "publish__max_wait": "0.3"}
    with open_yard(tmp_path, "", monkeypatch, **options) as yard:
        yield yard


def test_one_target_is_down_and_follows_when_it_is_back_without_a_build(yard: Yard) -> None:
    place = Place(yard.site)
    for folder in place.folders.values():
        folder.mkdir()
    down(place.folders["far"])
    yard.register(ONE)
    yard.push()
    with place.publishing():
        assert yard.settle() == ["web"]
        [version] = place.service.images.versions()
        place.await_that(lambda: place.states()["near"] == {"stored"})
        place.exactly("near", version)
        [far] = place.await_that(lambda: [one for one in place.rows(target="far") if one.attempts > 1])
        assert (far.state, far.refused) == ("waiting", 0)
        assert "far is not a folder" in (far.error or "")
        back(place.folders["far"])
        place.await_that(lambda: place.states()["far"] == {"stored"})
        [far] = place.rows(target="far")
        assert (far.error, far.path) == (None, str(place.folders["far"] / version.digest / "web.raw"))
    place.exactly("far", version)
    assert yard.began == ["web"], "it was built once"


def test_keep_holds_in_the_targets_too(yard: Yard) -> None:
    place = Place(yard.site)
    for folder in place.folders.values():
        folder.mkdir()
    yard.register(ONE)
    with place.publishing():
        for _ in range(4):
            yard.push()
            yard.settle()
        newest = place.service.images.versions()
        assert len(newest) == 2
        place.await_that(lambda: len(place.rows()) == 4 and place.states() == {"near": {"stored"}, "far": {"stored"}})
    place.exactly("near", *newest)
    place.exactly("far", *newest)


def test_killed_in_the_middle_of_a_copy_exactly_one_is_made(place: Place) -> None:
    version = place.version(size=600 << 20)
    first = place.serve()
    place.await_that(lambda: place.content("far"))
    first.kill()
    first.wait()
    assert [name for name in place.content("far") if name.startswith(".adding-")], "it was killed too late"
    place.serve()
    place.await_stored()
    place.await_that(lambda: place.content("far") == [version.digest])
    place.exactly("near", version)
    place.exactly("far", version)


def test_deleted_after_the_publisher_was_killed_nothing_is_left(place: Place) -> None:
    version = place.version(size=600 << 20)
    first = place.serve()
    place.await_that(lambda: place.content("far"))
    first.kill()
    first.wait()
    place.service.images.delete(version.digest)
    place.serve()
    place.await_that(lambda: not place.rows())
    assert (place.content("near"), place.content("far")) == ([], [])


def test_a_publisher_that_slept_leaves_what_another_one_has_taken(place: Place) -> None:
    version = place.version(size=600 << 20)
    first = place.serve()
    place.await_that(lambda: place.content("far"))
    place.site.freeze(first)
    [before] = place.rows(target="far")
    assert before.owner is not None, "it was stopped too late"
    second = place.serve()
    place.await_that(lambda: place.states()["far"] == {"stored"})
    first.send_signal(signal.SIGCONT)
    first.terminate()
    assert first.wait(30) == 0
    place.await_stored()
    place.exactly("far", version)
    second.terminate()
    assert second.wait(30) == 0


def test_two_that_serve_publish_each_version_once(place: Place) -> None:
    place.configured(lease="30")  # on a busy machine either may be late
    made = [place.version(size=1 << 20) for _ in range(10)]
    both = [place.serve(), place.serve()]
    place.await_stored()
    place.await_serving(2)
    for process in both:
        process.terminate()
        assert process.wait(30) == 0
    place.exactly("near", *made)
    place.exactly("far", *made)
    said = (place.site.folder / "serve.log").read_text()
    assert said.count("is published") == 20
    assert {one.attempts for one in place.rows()} == {1}


def test_serve_stops_in_the_middle_of_a_copy_and_hands_it_over(place: Place) -> None:
    version = place.version(size=600 << 20)
    first = place.serve()
    place.await_that(lambda: place.content("far"))
    first.terminate()
    assert first.wait(30) == 0
    [far] = place.rows(target="far")
    assert (far.state, far.owner, far.attempts) == ("waiting", None, 0)
    assert place.content("far") == []
    with place.publishing():
        place.await_stored()
    place.exactly("far", version)


def test_what_is_deleted_while_it_waits_never_gets_there(place: Place) -> None:
    version = place.version()
    down(place.folders["far"])
    with place.publishing():
        place.await_that(lambda: place.states()["near"] == {"stored"})
        place.await_that(lambda: [one for one in place.rows(target="far") if one.attempts > 1])
        place.service.images.delete(version.digest)
        place.await_that(lambda: not place.rows(target="near"))
        assert place.content("near") == []
        [far] = place.await_that(lambda: [one for one in place.rows(target="far") if one.attempts > 1])
        assert far.wish == "removed"
        back(place.folders["far"])
        place.await_that(lambda: not place.rows())
    assert place.content("far") == []


def test_a_folder_that_is_empty_all_at_once_is_a_mount_that_is_gone(place: Place) -> None:
    version = place.version()
    far = place.folders["far"]
    with place.publishing():
        place.await_stored()
        place.service.images.delete(version.digest)
        place.await_that(lambda: not place.rows())
        kept = place.version()
        place.await_stored()
        far.rename(far.with_name("far-away"))
        far.mkdir()
        other = place.version()
        place.service.images.delete(kept.digest)
        place.await_that(lambda: len([one for one in place.rows(target="far") if one.attempts]) == 2)
        assert list(far.iterdir()) == []
        assert {one.state for one in place.rows(target="far")} == {"waiting"}
        assert all("is not the folder it was" in (one.error or "") for one in place.rows(target="far"))
        far.rmdir()
        far.with_name("far-away").rename(far)
        place.await_that(lambda: [one.state for one in place.rows(target="far")] == ["stored"])
    place.exactly("far", other)


def test_a_target_that_refuses_is_given_up_until_it_is_asked_for_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "REFUSALS", 3)
    version = place.version()
    (place.folders["far"] / ".lock").mkdir()  # no store can be there
    with place.publishing():
        place.await_that(lambda: place.states() == {"near": {"stored"}, "far": {"failed"}})
        [far] = place.rows(target="far")
        assert (far.attempts, far.refused) == (3, 3)
        assert "Is a directory" in (far.error or "")
        [row] = place.program.json("image", "list")
        assert row["targets"] == {"far": "failed", "near": "stored"}
        assert "1/2 (far: failed)" in place.program.run("image", "list").stdout
        [shown] = [one for one in place.program.json("image", "show", "web")["targets"] if one["target"] == "far"]
        assert (shown["state"], shown["attempts"]) == ("failed", 3)
        (place.folders["far"] / ".lock").rmdir()
        [again] = place.program.json("publication", "retry")
        assert (again["target"], again["image"], again["state"], again["error"]) == ("far", "web", "waiting", None)
        place.await_stored()
        assert "2/2" in place.program.run("image", "list").stdout
    place.exactly("far", version)


def test_a_target_that_is_configured_later_gets_versions_when_it_is_asked_to(place: Place) -> None:
    place.configured(targets="")
    place.version()
    old, new = place.version(), place.version()
    other = place.version(image="db")
    assert "targets" not in place.program.json("image", "list")[0]
    assert "targets" not in place.program.json("image", "show", "web")
    place.configured()
    assert place.program.json("publication", "list") == []
    with place.publishing():
        made = place.program.json("publication", "retry", "--target", "near")
        assert {(one["digest"], one["target"]) for one in made} == {(new.digest, "near"), (other.digest, "near")}
        place.await_stored()
        place.exactly("near", new, other)
        made = place.program.json("publication", "retry", old.digest)
        assert {(one["digest"], one["target"]) for one in made} == {(old.digest, "near"), (old.digest, "far")}
        place.await_stored()
    place.exactly("near", old, new, other)
    place.exactly("far", old)


def test_what_somebody_removed_is_missing_and_can_be_published_again(place: Place) -> None:
    version = place.version()
    with place.publishing():
        place.await_stored()
        [far] = place.rows(target="far")
        DirectoryStore(targets.parse(place.service.config)[1].config).delete(version.digest)
        assert far.path is not None
        place.service.database.transact(lambda conn: publications.lost(conn, far.path or ""))
        [row] = place.program.json("publication", "list", "--state", "missing")
        assert (row["target"], row["error"]) == ("far", f"{far.path} was deleted in far")
        place.program.run("publication", "retry", "web")
        place.await_stored()
    place.exactly("far", version)


def test_nobody_works_for_a_target_that_is_not_configured_any_more(place: Place) -> None:
    version = place.version()
    place.configured(targets=f"near=directory:{place.folders['near']}")
    with place.publishing():
        place.await_that(lambda: place.states()["near"] == {"stored"})
        time.sleep(1.0)
    assert place.content("far") == []
    assert place.states()["far"] == {"waiting"}
    assert "1/2 (far: waiting)" in place.program.run("image", "list").stdout
    assert (
        "no target 'far' is configured" in place.program.run("publication", "retry", "--target", "far", expect=2).stderr
    )
    assert "is configured" in place.program.run("publication", "forget", "near", expect=2).stderr
    assert place.program.json("publication", "forget", "far") == {"target": "far", "forgotten": 1}
    assert [one["target"] for one in place.program.json("publication", "list")] == ["near"]
    place.exactly("near", version)


def test_a_version_that_is_in_another_hosts_store_is_left_to_that_host(place: Place, tmp_path: Path) -> None:
    version = place.version()
    here = place.service.config.store_path
    here.rename(tmp_path / "other-host")
    with place.publishing("near"):
        [near] = place.await_that(lambda: [one for one in place.rows(target="near") if one.error])
        assert (near.state, near.attempts, near.owner) == ("waiting", 0, None)
        assert "is not whole in the store" in near.error
    (tmp_path / "other-host").rename(here)
    with place.publishing("near"):
        place.await_that(lambda: place.states()["near"] == {"stored"})
    [near] = place.rows(target="near")
    assert near.error is None
    place.exactly("near", version)


def test_builds_of_the_same_bytes_share_what_is_in_a_target(place: Place) -> None:
    first = place.version()
    second = place.version()

    def same(conn: sa.Connection) -> None:
        conn.execute(sa.update(table).where(table.c.id == second.id).values(digest=first.digest, path=first.path))

    place.service.database.transact(same)
    ref = place.service.store.find(first.digest)
    assert ref is not None
    files = [(Path(ref.path), ref.artifacts[0])]
    place.service.store.add(files, build_id=second.build_id, control=Control())
    with place.publishing():
        place.await_stored()
        place.service.images.delete(f"web@{first.digest}")  # the newest of that digest
        place.await_that(lambda: len(place.rows()) == 2)
    place.exactly("near", first)
    place.exactly("far", first)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("prod", "'prod' is not understood"),
        ("prod=glance", "'prod=glance' is not understood"),
        ("prod=glance:", "does not say where"),
        ("prod=glance:/RegionTwo", "names no cloud"),
        ("Prod=directory:/x", "'Prod' can't be its name"),
        ("=directory:/x", "'' can't be its name"),
        ("a=directory:x", "not an absolute path"),
        ("a=directory:/x, a=directory:/y", "there is another target 'a'"),
        ("a=directory:/x, b=directory:/x/", "is the same place as a"),
        ("a=directory:{store}", "is the same place as [store]"),
        ("a=nothing:/x", "'a': there is no store driver 'nothing'"),
        ("a=nothing:/x", "there are directory, glance"),
        ("lab=glance:no-such-cloud", "'lab': there is no cloud 'no-such-cloud'"),
    ],
)
def test_a_wrong_target_ends_serve_before_anything_starts(place: Place, entry: str, said: str) -> None:
    place.configured(targets=entry.format(store=place.service.config.store_path))
    done = place.program.run("serve", "--listen", "none", expect=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "serves" not in done.stderr


def test_entries_say_which_cloud_and_region(place: Place) -> None:
    place.configured(targets="prod=glance:prod-cloud, lab = glance:lab/RegionTwo ,dr=directory:/mnt/images")
    prod, lab, dr = targets.parse(place.service.config)
    assert [(one.name, one.store.name) for one in (prod, lab, dr)] == [
        ("prod", "glance"),
        ("lab", "glance"),
        ("dr", "directory"),
    ]
    assert (prod.config.openstack.cloud, prod.config.openstack.region) == ("prod-cloud", None)
    assert (lab.config.openstack.cloud, lab.config.openstack.region) == ("lab", "RegionTwo")
    assert dr.config.store_path == Path("/mnt/images")


def test_scratch_of_the_dead_is_removed_and_of_the_living_is_not(tmp_path: Path) -> None:
    root = tmp_path / "publishing"
    assert scratch.sweep(root) == []
    with scratch.folder(root) as mine:
        (root / "of-the-dead").mkdir()
        (root / "of-the-dead" / "copy").write_text("half")
        assert scratch.sweep(root) == [root / "of-the-dead"]
        assert mine.is_dir()
        child = os.fork()
        if child == 0:
            with scratch.folder(root):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(scratch.sweep(root)) == 1
        assert [entry for entry in root.iterdir() if entry.is_dir()] == [mine]
    assert not mine.exists()


def test_retry_of_what_is_not_there(place: Place) -> None:
    with pytest.raises(NotFound, match="no target 'x' is configured"):
        place.service.publications.retry(target="x")
    with pytest.raises(NotFound, match="there is no image 'web'"):
        place.service.publications.retry("web")
    place.configured(targets="")
    with pytest.raises(NotFound, match="nothing was published to 'x'"):
        place.service.publications.forget("x")
    place.configured(targets="x")
    with pytest.raises(ConfigError):
        place.service.publications.retry()
