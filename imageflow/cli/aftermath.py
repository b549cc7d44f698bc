"""Follows an event to its end: the builds that it requests, and those that they request in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imageflow.errors import Conflict
from imageflow.model import BuildState, Outcome, Reaction

if TYPE_CHECKING:
    from imageflow.cli.app import App
    from imageflow.service import Service

LOOK = 0.3  # seconds between two looks
ALONE = 15.0  # seconds without a serving process after which it gives up


class Aftermath:
    """Reports what comes of events while it happens."""

    def __init__(self, app: App, service: Service) -> None:
        self._app = app
        self._service = service
        self._told: set[tuple[int, str, str]] = set()
        self.exit_code = 0

    def follow(self, seqs: Sequence[int]) -> None:
        """Wait until nothing more comes of these events. Raises Conflict when nothing serves."""
        waves = list(seqs)
        seen: set[int] = set()
        while waves:
            seq = waves.pop(0)
            if seq in seen:
                continue
            seen.add(seq)
            for reaction in self._decided(seq):
                waves += self._see_through(reaction)

    def _decided(self, seq: int) -> list[Reaction]:
        """The reactions to an event, once each image has decided."""
        alone = time.monotonic()
        while True:
            event, reactions = self._service.events.get(seq)
            if event.verdict is not None and all(self._tell(one) for one in reactions):
                return reactions
            if self._service.conductors():
                alone = time.monotonic()
            elif time.monotonic() - alone > ALONE:
                raise Conflict(f"event {seq} waits: nothing is serving", hint="start 'imageflow serve'")
            time.sleep(LOOK)

    def _tell(self, reaction: Reaction) -> bool:
        """Print an image's reaction, once for each state; -> whether it has an outcome."""
        if reaction.outcome is None:
            held = next((r.held for r in self._service.events.rebuilds() if r.image == reaction.image), None)
            if held:
                self._say(reaction, held)
            return False
        if reaction.outcome is not Outcome.CREATED:  # a build prints its reason itself
            self._say(reaction, f"{reaction.outcome}: {reaction.detail or reaction.reason}")
        return True

    def _say(self, reaction: Reaction, text: str) -> None:
        if (key := (reaction.event, reaction.image, text)) not in self._told:
            self._told.add(key)
            self._app.note(f"{reaction.image}: {text}")

    def _see_through(self, reaction: Reaction) -> list[int]:
        """Follow a build to its end; -> the events that it caused."""
        from imageflow.cli.wait import exit_code, see_through

        if reaction.build_id is None or reaction.outcome is Outcome.REUSED:
            self._worst(1 if reaction.outcome is Outcome.REFUSED else 0)
            return []
        build = self._service.build(reaction.build_id)
        if reaction.outcome is Outcome.CREATED and (reaction.event, build.id, "") not in self._told:
            self._told.add((reaction.event, build.id, ""))
            self._app.note(f"{build.image}: build {build.id}: {build.reason}")
        [build] = see_through(self._app, self._service, [build])
        if build.state is not BuildState.SUPERSEDED:
            self._worst(exit_code([build]))
        published = self._service.events.publication(build.id)
        return [] if published is None else [published]

    def _worst(self, code: int) -> None:
        self.exit_code = next((one for one in (1, 3, 130) if one in (code, self.exit_code)), 0)
