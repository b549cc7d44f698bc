"""A forge with one recipe, a yard that registers from it, and what following it has made of both."""

from __future__ import annotations

from imageflow.host.control import Control
from imageflow.model import Event
from imageflow.registry import change_events
from tests.small.yard import Yard


def settle(yard: Yard) -> list[str]:
    """Let everything happen; -> the images that builds began of, in order."""
    before = {build.id for build in yard.service.builds(limit=1000)}
    yard.settle()
    return [build.image for build in yard.service.builds(limit=1000)[::-1] if build.id not in before]


def look(yard: Yard, name: str) -> list[str]:
    return yard.service.git_recipes.look(name, Control())


def changes(yard: Yard) -> list[Event]:
    return yard.service.events.select(type=change_events.CHANGED)[::-1]
