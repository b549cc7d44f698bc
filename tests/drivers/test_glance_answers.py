"""The store in Glance, where Glance answers as it does to an administrator, when somebody interferes, or when it is full."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageflow.compute.nova.layers import NovaLayers
from imageflow.errors import Corrupt, RecipeError, Refused, Unavailable
from imageflow.host.control import Control
from imageflow.inputs import glance as pins
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import OverQuota
from imageflow.openstack.image import SELF, WHOLE
from imageflow.openstack.images import Images
from imageflow.recipe.records import MadeFrom
from imageflow.stores import About
from imageflow.stores.glance.driver import GlanceStore
from imageflow.stores.glance.versions import versions
from tests.contracts.stores import image
from tests.samples.half_stored import sent
from tests.servers.glance import PROJECT, Glance, configured, glance_server

HASH = {"os_hash_algo": "sha512", "os_hash_value": "ab" * 64}
OTHERS = "e" * 32  # another project


@pytest.fixture
def glance() -> Iterator[Glance]:
    with glance_server() as server:
        yield server


@pytest.fixture
def store(glance: Glance, tmp_path: Path) -> GlanceStore:
    return GlanceStore(configured(glance, tmp_path))


@pytest.mark.parametrize(
    ("visibility", "membership", "taken"),
    [
        ("private", None, False),
        ("shared", None, False),  # as every image is that somebody makes
        ("shared", "pending", False),
        ("community", None, False),
        ("shared", "accepted", True),
        ("public", None, True),
    ],
)
@pytest.mark.parametrize("role", ["member", "admin"])
def test_whose_image_is_taken_as_a_base(
    glance: Glance, tmp_path: Path, role: str, visibility: str, membership: str | None, taken: bool
) -> None:
    """Glance lists everybody's for an administrator: under any name anybody may have put anything."""
    glance.roles = [role]
    glance.add("ours", name="debian", visibility="shared", created_at="2026-01-01T00:00:00Z", **HASH)
    theirs = glance.add("theirs", name="debian", owner=OTHERS, created_at="2026-01-02T00:00:00Z", **HASH)
    theirs["visibility"] = visibility
    if membership:
        glance.members["theirs", PROJECT] = membership
    config = configured(glance, tmp_path)
    assert pins.look_up(MadeFrom("base", glance="debian"), config).partition(":")[0] == ("theirs" if taken else "ours")
    del glance.images["ours"]
    if not taken:
        with pytest.raises(RecipeError, match="no active image named 'debian'"):
            pins.look_up(MadeFrom("base", glance="debian"), config)


@pytest.mark.parametrize("asked", [{"visibility": "community"}, {"owner": OTHERS}])
@pytest.mark.parametrize("role", ["member", "admin"])
def test_a_base_of_others_may_be_asked_for(glance: Glance, tmp_path: Path, role: str, asked: dict[str, str]) -> None:
    glance.roles = [role]
    visibility = asked.get("visibility", "public" if role == "member" else "private")
    glance.add("theirs", name="debian", owner=OTHERS, visibility=visibility, **HASH)
    found = pins.look_up(MadeFrom("base", glance="debian", properties=asked), configured(glance, tmp_path))
    assert found.startswith("theirs:")


def test_a_full_quota_is_not_a_question_of_visibility(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    full = {"error": {"message": "Denying attempt to create an image because it exceeds the quota"}}
    glance.before = lambda request: (413, full) if request.startswith("POST /v2/images") else None
    with pytest.raises(OverQuota, match="exceeds the quota") as full_error:
        store.add(image(tmp_path / "one"), build_id="b1", control=Control(), about=About("web", visibility="community"))
    assert "quota show" in full_error.value.hint


def test_an_image_that_goes_away_while_the_version_is_published(
    glance: Glance, store: GlanceStore, tmp_path: Path
) -> None:
    files = image(tmp_path / "one")

    times = 1
    taken = []

    def before(request: str) -> None:
        method, _, path = request.partition(" ")
        if method == "PATCH" and len(taken) < times:
            taken.append(path.rpartition("/")[2])
            del glance.images[taken[-1]]

    glance.before = before
    ref = store.add(files, build_id="b1", control=Control())
    assert len(glance.images) == 2 and len(taken) == 1
    assert sum(request.startswith("PUT") for request in glance.seen) == 3, "what is still there is not sent again"
    store.delete(ref.digest)
    times = 100
    with pytest.raises(Unavailable, match="went away while it was published"):
        store.add(files, build_id="b1", control=Control())
    times = 0
    store.add(files, build_id="b1", control=Control())
    assert len(glance.images) == 2


def test_another_publisher_of_the_same_build_is_first(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    """Its set stays, and what we have sent is taken away: that is no failure of ours."""
    files = image(tmp_path / "one")

    def before(request: str) -> None:
        if request.startswith("PATCH"):
            glance.before = lambda request: None
            ours = list(glance.images)
            for id in ours:
                theirs = f"their-{id}"
                glance.images[theirs] = glance.images.pop(id) | {"id": theirs, SELF: theirs, WHOLE: "2"}

    glance.before = before
    ref = store.add(files, build_id="b1", control=Control())
    assert ref.path.startswith("their-") and len(glance.images) == 2
    assert sum(request.startswith("PUT") for request in glance.seen) == 2


def test_two_publishers_that_remove_what_the_other_one_chose(
    glance: Glance, store: GlanceStore, tmp_path: Path
) -> None:
    """Each had not seen yet that the other's disk is published, too: whoever removes last sees it."""
    files = image(tmp_path / "one")

    def before(request: str) -> None:
        ours = [id for id, one in glance.images.items() if one["imageflow:artifact"] == "web.qcow2"]
        if request.startswith("PATCH") and len(ours) == 1:
            theirs = glance.images[ours[0]] | {"id": "theirs", SELF: "theirs", "created_at": "2026-01-01T00:00:00Z"}
            glance.images["theirs"] = theirs
        elif request == "DELETE /v2/images/theirs":
            glance.before = lambda request: None
            [ours_alone] = [id for id in ours if id != "theirs"]
            del glance.images[ours_alone]

    glance.before = before
    ref = store.add(files, build_id="b1", control=Control())
    assert store.find(ref.digest) == ref and len(glance.images) == 2
    store.verify(ref.digest, Control())


@pytest.mark.parametrize("later", ["1", "3"])
def test_of_two_bases_of_one_second_glance_says_which_is_newer(glance: Glance, tmp_path: Path, later: str) -> None:
    """It tells whole seconds, and sorts by what it knows."""
    glance.add("2", name="debian", created_at="2026-01-01T00:00:00Z", **HASH)
    glance.add(later, name="debian", created_at="2026-01-01T00:00:00Z", **HASH)
    assert pins.look_up(MadeFrom("base", glance="debian"), configured(glance, tmp_path)).startswith(f"{later}:")


def test_an_upload_is_sent_again_as_long_as_the_cloud_is_waited_for(
    glance: Glance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageflow.host.control.Control.wait", lambda self, seconds: None)
    left = 12

    def break_off(request: str) -> tuple[int, None] | None:
        nonlocal left
        left -= request.startswith("PUT")
        return (503, None) if request.startswith("PUT") and left >= 0 else None

    glance.before = break_off
    files = image(tmp_path / "one")
    GlanceStore(configured(glance, tmp_path, patience=60.0)).add(files, build_id="b1", control=Control())
    assert left < 0 and len(glance.images) == 2
    impatient = GlanceStore(configured(glance, tmp_path, patience=0.0))
    left = 12
    with pytest.raises(Unavailable):
        impatient.add(image(tmp_path / "two", b"2"), build_id="b2", control=Control())
    assert left == 12 - 5


def test_an_image_that_is_hidden_while_it_is_looked_for_is_one(
    glance: Glance, store: GlanceStore, tmp_path: Path
) -> None:
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=Control())

    def hide(request: str) -> None:
        if "os_hidden=True" in request:
            glance.images[ref.path]["os_hidden"] = True

    glance.before = hide
    [found] = versions(store._images, ref.digest)
    assert found.whole and found.others == ()  # others are removed


def test_what_an_upload_left_short_is_not_what_is_published(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    """Some servers take the end of a connection for the end of the data: such an image is active."""
    files = image(tmp_path / "one")
    sent(store, files[:1], "b1")
    [short] = glance.images.values()
    short |= {"size": 5, "created_at": "2026-01-01T00:00:00Z", **HASH}
    ref = store.add(files, build_id="b1", control=Control())
    assert ref.path != short["id"] and glance.images[ref.path]["size"] == files[0][1].size
    assert len(glance.images) == 2


def test_an_image_that_an_administrator_takes_out_of_use_is_not_waited_for(
    glance: Glance, store: GlanceStore, tmp_path: Path
) -> None:
    def deactivate(request: str) -> None:
        for one in glance.images.values():
            if request == f"GET /v2/images/{one['id']}":
                one["status"] = "deactivated"

    glance.before = deactivate
    with pytest.raises(Refused, match="deactivated image"):
        store.add(image(tmp_path / "one"), build_id="b1", control=Control())


def test_an_image_between_two_pages_is_deleted(glance: Glance, store: GlanceStore) -> None:
    """Glance knows where a page begins by the last image of the one before."""
    for number in range(250):
        glance.add(f"{number:03}")

    def take_away(request: str) -> None:
        if "marker=" in request:
            glance.before = lambda request: None
            del glance.images[request.rpartition("marker=")[2]]

    glance.before = take_away
    assert len(store._images.find({})) == 249


def test_no_list_is_no_empty_list(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    """What stands before a Glance that is restarted may say 404."""
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=Control())
    left = iter(range(2))
    glance.before = lambda request: (
        (404, None) if "GET /v2/images?" in request and next(left, None) is not None else None
    )
    assert store.find(ref.digest) == ref
    glance.before = lambda request: (404, None)
    with pytest.raises(Unavailable):
        GlanceStore(configured(glance, tmp_path, patience=0.1)).verify(ref.digest, Control())


def test_a_base_that_was_not_sent_to_its_end_is_no_layer(glance: Glance, tmp_path: Path) -> None:
    """Whoever sent it was killed, and the server took the end of the connection for the end of the data."""

    class Killed(BaseException):
        pass

    layers = NovaLayers(Images(Cloud(configured(glance, tmp_path).openstack)), tmp_path)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"disk" * 1000)
    key = "ab" * 32

    def kill(request: str) -> None:
        if request.startswith("POST /v2/images"):
            killed.append(request)

    def guard() -> None:
        if killed:
            raise Killed

    killed: list[str] = []
    glance.before = kill
    with pytest.raises(Killed):
        layers.add_base(key, disk, "raw", title="base", build_id="b1", control=Control(guard=guard))
    glance.before = lambda request: None
    [short] = glance.images.values()
    short |= {"status": "active", "size": 5, **HASH}
    assert layers.find(key) is None
    made = layers.add_base(key, disk, "raw", title="base", build_id="b2", control=Control())
    assert layers.find(key) == made
    assert glance.images[made.source.path]["data"] == disk.read_bytes()


def test_what_is_left_over_is_no_reason_to_fail(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    files = image(tmp_path / "one")
    sent(store, files[:1], "b1")
    [left] = glance.images.values()
    left |= {"status": "saving", "protected": True}
    ref = store.add(files, build_id="b1", control=Control())
    assert store.find(ref.digest) == ref and left["id"] in glance.images
    other = image(tmp_path / "two", b"b")
    sent(store, other, "b2")
    assert len(store.tidy(lambda build: False)) == 2, "it does not keep the others either"
    left["protected"] = False
    assert len(store.tidy(lambda build: False)) == 1


def test_connections_are_given_back(glance: Glance, store: GlanceStore, tmp_path: Path) -> None:
    """At once: a collection of garbage may be long in coming."""
    ref = store.add(image(tmp_path / "one", size=8 << 20), build_id="b1", control=Control())

    def open_connections() -> int:
        found = psutil.Process().net_connections()
        return sum(one.raddr != () and glance.url.endswith(f":{one.raddr.port}") for one in found)

    before = open_connections()
    gc.disable()
    try:
        for _ in range(5):
            store.open(ref).close()
        glance.images[ref.path]["data"] = bytes(8 << 20)
        for _ in range(5):
            with pytest.raises(Corrupt):
                store.verify(ref.digest, Control())
        assert open_connections() <= before + 1
    finally:
        gc.enable()
