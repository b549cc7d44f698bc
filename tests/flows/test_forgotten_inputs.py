"""What events said of an image's inputs goes when nothing follows it any more: builds hold only what they used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.model import Event
from imageflow.persistence import registry
from imageflow.persistence.tables import inputs
from tests.small.yard import Yard, open_yard

A, B, C = (letter * 40 for letter in "abc")
BOTH = """
images:
  - name: web
    method: dib
    dib: {{elements: [tiny], skip-base: true}}
    on: {on}
"""
SOURCE = "https://git.example/acme/infra"
NUMBERS = itertools.count()


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with open_yard(tmp_path, "", monkeypatch) as yard:
        yield yard


def pushed(ref: str, after: str | None, before: str | None = None, type: str = "git.push") -> Event:
    data: dict[str, Any] = {"repository": "infra", "owner": "acme", "ref": f"refs/heads/{ref}", "after": after}
    return Event(SOURCE, f"e{next(NUMBERS)}", type, subject=data["ref"], data=data | {"before": before})


def deleted(ref: str, before: str | None) -> Event:
    return pushed(ref, None, before, "git.delete")


def tell(yard: Yard, *events: Event, proof: str | None = None) -> None:
    for start in range(0, len(events), 100):
        yard.inbox.receive(events[start : start + 100], listener="http", proof=proof)
    yard.settle()


def pins(yard: Yard, image: str = "web") -> set[str]:
    with yard.service.database.read() as conn:
        return {name.rpartition("/")[2] for name in registry.learnt(conn, image)}


def of_last_build(yard: Yard) -> set[str]:
    [last] = yard.service.builds(limit=1)
    return {name.rpartition("/")[2] for name in yard.service.build(last.id).pins if name.startswith("git:")}


def test_three_hundred_deleted_branches_are_in_no_build(yard: Yard) -> None:
    yard.register(BOTH.format(on="[{event: git.push}]"))
    tell(yard, *(pushed(f"f{number}", A) for number in range(300)), pushed("main", A))
    assert len(of_last_build(yard)) == 301
    tell(yard, *(deleted(f"f{number}", A) for number in range(300)))
    assert pins(yard) == {"main"}
    tell(yard, pushed("main", B, A))
    assert of_last_build(yard) == {"main"}


def test_a_deletion_that_comes_late_takes_nothing_away(yard: Yard) -> None:
    """The branch was made again since."""
    yard.register(BOTH.format(on="[{event: git.push}]"))
    tell(yard, pushed("main", A), deleted("main", A), pushed("main", B))
    tell(yard, deleted("main", A))
    assert pins(yard) == {"main"}
    tell(yard, deleted("main", B))
    assert pins(yard) == set()


def test_a_deletion_whose_signature_came_before_takes_nothing_away(yard: Yard) -> None:
    yard.register(BOTH.format(on="[{event: git.push}]"))
    tell(yard, pushed("main", A))
    tell(yard, deleted("main", None), proof="a" * 64)
    tell(yard, pushed("main", B))
    tell(yard, deleted("main", None), proof="a" * 64)
    assert pins(yard) == {"main"}


def test_a_recipe_that_follows_less(yard: Yard) -> None:
    main, other = ("{event: git.push, where: {ref: refs/heads/" + ref + "}}" for ref in ("main", "other"))
    yard.register(BOTH.format(on=f"[{main}, {other}]"))
    tell(yard, pushed("main", A), pushed("other", A))
    assert pins(yard) == {"main", "other"}
    yard.register(BOTH.format(on=f"[{other}]"))
    assert pins(yard) == {"other"}
    yard.register(BOTH.format(on=f"[{{schedule: '0 3 * * *'}}, {other}]"))
    assert pins(yard) == {"other"}, "it is followed as before"


def test_a_recipe_that_is_removed(yard: Yard) -> None:
    yard.register(BOTH.format(on="[{event: git.push}]"))
    tell(yard, *(pushed(f"f{number}", A) for number in range(50)))
    yard.service.recipes.remove("recipe")
    with yard.service.database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(inputs)).scalar_one() == 0


def test_an_image_learns_only_so_many(yard: Yard) -> None:
    """Branches that nobody deletes: those that were pushed last count."""
    yard.register(BOTH.format(on="[{event: git.push}]"))
    many = registry.MOST_INPUTS + 50
    tell(yard, *(pushed(f"f{number}", A) for number in range(many)))
    assert pins(yard) == {f"f{number}" for number in range(50, many)}
