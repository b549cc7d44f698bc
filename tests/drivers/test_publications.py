"""Publications: wished with the version, worked on by one at a time, each target for itself; on all three databases."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from imageflow.model import Artifact, Build, BuildState, Publication, PublicationState, PublicationWish, Version
from imageflow.persistence import builds, publications, versions
from imageflow.persistence.database import Database
from tests.small.racers import at_once, publish_all

T = TypeVar("T")
ME = "me"
BOTH = ("dr", "prod")


def a_version(database: Database, *targets: str, image: str = "web", state: str = "stored") -> Version:
    """A version that is wanted in these targets."""
    id = uuid.uuid4().hex[:12]
    digest = hashlib.sha256(id.encode()).hexdigest()
    build = Build(id, image, "dib", BuildState.SUCCEEDED, "new", digest, "f", 1.0)
    version = Version(0, image, id, digest, digest, 2.0, "directory", "/p", (Artifact("w", "raw", 1, digest),))

    def add(conn: sa.Connection) -> Version:
        builds.insert(conn, build, claim=False)
        made = versions.add(conn, version)
        publications.want(conn, made.id, targets)
        if state != "stored":
            versions.mark(conn, made.id, state)
        return made

    return database.transact(add)


def do(database: Database, work: Callable[[sa.Connection], T]) -> T:
    return database.transact(work)


def take(database: Database, target: str = "dr", owner: str = ME, lease: float = 60.0, **more: Any) -> Publication:
    one = may_take(database, target, owner, lease, **more)
    assert one is not None
    return one


def may_take(
    database: Database, target: str = "dr", owner: str = ME, lease: float = 60.0, **more: Any
) -> Publication | None:
    return do(database, lambda conn: publications.take(conn, target, owner, lease, **more))


def row(database: Database, version: Version, target: str = "dr") -> Publication | None:
    with database.read() as conn:
        found = publications.select(conn, version_id=version.id, target=target)
    return found[0] if found else None


def states(database: Database, version: Version) -> dict[str, str]:
    with database.read() as conn:
        return {one.target: one.state for one in publications.select(conn, version_id=version.id)}


def test_a_version_waits_in_every_target_and_each_goes_its_own_way(database: Database) -> None:
    version = a_version(database, *BOTH)
    assert states(database, version) == {"dr": PublicationState.WAITING, "prod": PublicationState.WAITING}
    one = take(database, "prod")
    assert (one.image, one.digest, one.build_id) == (version.image, version.digest, version.build_id)
    assert (one.owner, one.wish, one.path, one.attempts) == (None, PublicationWish.STORED, None, 0)
    assert do(database, lambda conn: publications.failed(conn, one, ME, "no", 60.0, refused=True))
    other = take(database, "dr")
    assert do(database, lambda conn: publications.stored(conn, other, ME, "id-1"))
    assert states(database, version) == {"dr": PublicationState.STORED, "prod": PublicationState.WAITING}
    there, waits = row(database, version), row(database, version, "prod")
    assert there is not None and waits is not None
    assert (there.path, there.attempts, there.error, there.owner, there.until) == ("id-1", 1, None, None, 0.0)
    assert there.done is not None and abs(there.done - time.time()) < 60
    assert (waits.attempts, waits.refused, waits.error, waits.done) == (1, 1, "no", None)
    assert may_take(database, "dr") is None
    assert may_take(database, "prod") is None, "not before its time"


def test_it_is_wanted_with_the_version_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError), database.begin() as conn:
        publications.want(conn, a_version_in(conn).id, BOTH)
        raise RuntimeError
    with database.read() as conn:
        assert publications.select(conn) == []


def a_version_in(conn: sa.Connection) -> Version:
    id = uuid.uuid4().hex[:12]
    return versions.add(conn, Version(0, "web", id, id * 5, id * 5, 2.0, "directory", "/p"))


def test_wanting_again_changes_nothing(database: Database) -> None:
    version = a_version(database, "dr")
    one = take(database)
    do(database, lambda conn: publications.stored(conn, one, ME, "id-1"))
    do(database, lambda conn: publications.want(conn, version.id, BOTH))
    assert states(database, version) == {"dr": PublicationState.STORED, "prod": PublicationState.WAITING}


def test_one_at_a_time_until_the_lease_is_over(database: Database) -> None:
    a_version(database, "dr")
    one = take(database)
    with database.read() as conn:
        assert not publications.due(conn, "dr")
    assert may_take(database, owner="second") is None
    assert take(database).owner == ME, "who took it finds it again, when the answer of that got lost"
    assert do(database, lambda conn: publications.extend(conn, one, ME, 0.4)) == PublicationWish.STORED
    while (taken := may_take(database, owner="second")) is None:
        time.sleep(0.05)
    assert taken.owner == ME, "the second one is told who was lost over it"
    assert do(database, lambda conn: publications.extend(conn, one, ME, 60.0)) is None
    for work in (
        lambda conn: publications.stored(conn, one, ME, "id-1"),
        lambda conn: publications.failed(conn, one, ME, "no", 0.0, refused=False),
        lambda conn: publications.put_back(conn, one, ME),
        lambda conn: publications.removed(conn, one, ME),
    ):
        assert not do(database, work), "the first one has no say any more"
    assert do(database, lambda conn: publications.stored(conn, taken, "second", "id-2"))


def test_the_oldest_first_and_who_failed_lets_others_pass(database: Database) -> None:
    first, second = a_version(database, "dr"), a_version(database, "dr")
    one = take(database)
    assert one.version_id == first.id
    do(database, lambda conn: publications.failed(conn, one, ME, "away", 0.0, refused=False))
    two = take(database)
    assert two.version_id == second.id, "the other one has not been tried yet"
    do(database, lambda conn: publications.put_back(conn, two, ME))
    assert may_take(database, without=[first.id, second.id]) is None
    assert take(database, without=[second.id]).version_id == first.id


def test_what_is_deleted_meanwhile_is_to_be_removed_next(database: Database) -> None:
    version = a_version(database, *BOTH)
    one = take(database)
    do(database, lambda conn: publications.unwant(conn, version.id))
    assert may_take(database, owner="second") is None, "the first one is still at it"
    assert do(database, lambda conn: publications.extend(conn, one, ME, 60.0)) == PublicationWish.REMOVED
    assert do(database, lambda conn: publications.stored(conn, one, ME, "id-1")), "it was faster than the look"
    left = take(database, owner="second")
    assert (left.wish, left.state, left.path) == (PublicationWish.REMOVED, PublicationState.WAITING, "id-1")
    assert do(database, lambda conn: publications.removed(conn, left, "second"))
    assert states(database, version) == {"prod": PublicationState.WAITING}
    assert take(database, "prod", without=[version.id]).wish == PublicationWish.REMOVED, (
        "that needs nothing of the version"
    )


def test_what_failed_for_good_waits_for_an_operator(database: Database) -> None:
    version = a_version(database, "dr")
    one = take(database)
    assert do(database, lambda conn: publications.failed(conn, one, ME, "no", 0.0, refused=True, final=True))
    assert states(database, version) == {"dr": PublicationState.FAILED}
    assert may_take(database) is None
    assert do(database, lambda conn: publications.again(conn, one))
    anew = take(database)
    assert (anew.attempts, anew.refused, anew.error, anew.state) == (0, 0, None, PublicationState.WAITING)


def test_a_deletion_is_not_a_failure_of_what_was_wished_before(database: Database) -> None:
    version = a_version(database, "dr")
    one = take(database)
    do(database, lambda conn: publications.unwant(conn, version.id))
    do(database, lambda conn: publications.failed(conn, one, ME, "no", 60.0, refused=True, final=True))
    left = take(database)
    assert (left.wish, left.state, left.error, left.attempts) == (
        PublicationWish.REMOVED,
        PublicationState.WAITING,
        None,
        0,
    )


def test_a_target_that_is_back_is_not_waited_for(database: Database) -> None:
    versions_ = [a_version(database, *BOTH) for _ in range(3)]
    for refused in (False, True):
        one = take(database)
        do(database, lambda conn, o=one, r=refused: publications.failed(conn, o, ME, "", 600.0, refused=r))  # type: ignore[misc]
    do(database, lambda conn: publications.failed(conn, take_in(conn, "prod"), ME, "", 600.0, refused=False))
    do(database, lambda conn: publications.hasten(conn, "dr"))
    ready = [one for v in versions_ for t in BOTH if (one := row(database, v, t)) and one.next == 0.0]
    assert [(one.target, one.version_id) for one in ready] == [
        ("dr", versions_[0].id),
        ("prod", versions_[1].id),
        ("dr", versions_[2].id),
        ("prod", versions_[2].id),
    ]


def take_in(conn: sa.Connection, target: str) -> Publication:
    one = publications.take(conn, target, ME, 60.0)
    assert one is not None
    return one


def test_what_somebody_deleted_in_the_target_is_missing(database: Database) -> None:
    first, second = a_version(database, *BOTH), a_version(database, "dr")
    for target, path in (("dr", "id-1"), ("prod", "id-2"), ("dr", "id-3")):
        one = take(database, target)
        do(database, lambda conn, o=one, p=path: publications.stored(conn, o, ME, p))  # type: ignore[misc]
    found = do(database, lambda conn: publications.lost(conn, "id-2"))
    assert [(one.version_id, one.target) for one in found] == [(first.id, "prod")]
    assert states(database, first) == {"dr": PublicationState.STORED, "prod": PublicationState.MISSING}
    missing = row(database, first, "prod")
    assert missing is not None and missing.error == "id-2 was deleted in prod"
    assert (missing.path, missing.done) == ("id-2", None)
    assert may_take(database, "prod") is None
    assert do(database, lambda conn: publications.lost(conn, "id-2")) == [], "once"
    assert do(database, lambda conn: publications.lost(conn, "unknown")) == []
    do(database, lambda conn: publications.unwant(conn, second.id))
    assert do(database, lambda conn: publications.lost(conn, "id-3")) == [], "we delete that one ourselves"


def test_what_is_half_made_is_somebodys_while_it_is_wanted_or_worked_on(database: Database) -> None:
    version = a_version(database, "dr")

    def under_way(owner: str = ME) -> bool:
        with database.read() as conn:
            assert not publications.under_way(conn, "prod", version.build_id, owner)
            return publications.under_way(conn, "dr", version.build_id, owner)

    assert under_way(), "it waits"
    one = take(database)
    do(database, lambda conn: publications.unwant(conn, version.id))
    assert (under_way(), under_way("second")) == (False, True)
    do(database, lambda conn: publications.put_back(conn, one, ME))
    assert not under_way("second"), "it is to be removed, and nobody works on it"


def test_whether_anything_was_ever_there(database: Database) -> None:
    a_version(database, *BOTH)
    one = take(database)
    with database.read() as conn:
        assert not publications.used(conn, "dr")
    do(database, lambda conn: publications.stored(conn, one, ME, "id-1"))
    with database.read() as conn:
        assert (publications.used(conn, "dr"), publications.used(conn, "prod")) == (True, False)


def test_select_and_forget(database: Database) -> None:
    old, new, other = a_version(database, *BOTH), a_version(database, *BOTH), a_version(database, "dr", image="db")
    one = take(database)
    do(database, lambda conn: publications.stored(conn, one, ME, "id-1"))
    with database.read() as conn:
        ids = [(p.version_id, p.target) for p in publications.select(conn)]
        assert ids == [(other.id, "dr"), (new.id, "dr"), (new.id, "prod"), (old.id, "dr"), (old.id, "prod")]
        assert [p.version_id for p in publications.select(conn, states=[PublicationState.STORED])] == [old.id]
        assert {p.image for p in publications.select(conn, image="db")} == {"db"}
        assert len(publications.select(conn, limit=2)) == 2
        assert [v.id for v in versions.newest(conn)] == [new.id, other.id]
    assert do(database, lambda conn: publications.forget(conn, "prod")) == 2
    with database.read() as conn:
        assert {p.target for p in publications.select(conn)} == {"dr"}


def test_the_newest_version_is_one_that_can_be_published(database: Database) -> None:
    good = a_version(database)
    a_version(database, state="corrupt")
    with database.read() as conn:
        assert [v.id for v in versions.newest(conn)] == [good.id]


def test_many_processes_publish_each_once(database: Database) -> None:
    for _ in range(12):
        a_version(database, *BOTH)
    url = database.url.render_as_string(hide_password=False)
    done = [key for keys in at_once(publish_all, [(url, me) for me in range(4)]) for key in keys]
    assert len(done) == len(set(done)) == 24
    with database.read() as conn:
        assert {p.state for p in publications.select(conn)} == {PublicationState.STORED}
