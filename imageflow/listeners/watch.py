"""Watches files, folders and URLs that images are made from: an event for each change."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from imageflow import inputs
from imageflow.background.flag import Flag
from imageflow.background.rounds import Rounds
from imageflow.errors import NotFound, Refused
from imageflow.events.own import CHANGED
from imageflow.fetch import guard
from imageflow.fetch.address import file_of, shown
from imageflow.host.control import Control
from imageflow.inputs import checksums
from imageflow.listeners import Surroundings, looking
from imageflow.model import Event, Trigger
from imageflow.recipe import ImageRecipe

SOURCE = "imageflow:watch"
_TICK = 0.5  # seconds between two looks at answers
_READ = 2.0  # seconds between two looks at what to watch
_SETTLE = 5.0  # seconds without a change after which a file counts as complete


@dataclass(frozen=True, slots=True)
class Sight:
    """The current state of an input."""

    value: str
    built: str | None = None  # what the last build used; only when nothing was seen before


class Watcher:
    """The listener. The last state of an input is one observation per image and input."""

    def __init__(
        self, surroundings: Surroundings, tick: float = _TICK, read: float = _READ, settle: float = _SETTLE
    ) -> None:
        """All in seconds; see _TICK, _READ, _SETTLE."""
        self._config = surroundings.config
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._tick, self._read, self._settle = tick, read, settle
        self._triggers: dict[str, Trigger] = {}
        self._moving: dict[str, str] = {}  # signs at the last look, of inputs that are still changing
        self._known: dict[str, tuple[str, str]] = {}  # signs -> content, of unchanged inputs

    def run(self, stop: Flag) -> None:
        """See Listener."""
        read = float("-inf")
        with Rounds(self._look, stop, name=self._called) as rounds:
            while not stop.is_set():
                if time.monotonic() - read >= self._read:
                    rounds.keep(self._places(self._watched.triggers("watch")))
                    if read == float("-inf"):
                        self._ready("files, folders and URLs")
                    read = time.monotonic()
                for place, sight in rounds.results():
                    if sight is None:
                        rounds.again(place, self._settle)
                    else:
                        self.saw(self._triggers[place], sight)
                stop.wait(self._tick)

    def _places(self, triggers: list[Trigger]) -> dict[str, float]:
        self._triggers = {f"{trigger.image}/{trigger.given['watch']}": trigger for trigger in triggers}
        for memory in (self._moving, self._known):
            for gone in set(memory) - self._triggers.keys():
                memory.pop(gone, None)
        return {
            place: float(trigger.given.get("every") or self._config.watch.every)
            for place, trigger in self._triggers.items()
        }

    def _called(self, place: str) -> str:
        image, _, watch = place.partition("/")
        return f"{shown(watch) if '://' in watch else watch!r} of image {image}"

    def _look(self, place: str, control: Control) -> Sight | None:
        """Its current state; None while it is being written. Runs in its own thread; one at a time per place."""
        trigger = self._triggers.get(place)
        canonical = self._watched.canonical(trigger.image) if trigger else None
        if trigger is None or canonical is None:
            raise NotFound("it is no longer registered")
        folder = Path(self._watched.folder(trigger.image))
        watch = str(trigger.given["watch"])
        if watch not in ("base", "iso"):
            return self._at(place, watch, folder, None, control)
        image = ImageRecipe.from_json(canonical)
        given = image.made_from
        if given.key != watch or given.image:
            raise Refused(f"the image has no {watch!r} that is a file, a URL or a Glance image")
        pin = inputs.source_name(image)
        if given.glance:
            return Sight(inputs.source(image, folder, self._config), self._built(place, pin))
        if given.file:
            return self._at(place, given.file, folder, pin, control)
        if given.sha256:
            return Sight(given.sha256)
        now = checksums.look_up(str(given.url), str(given.checksums), folder, guard.policy(self._config))
        return Sight(now, self._built(place, pin))

    def _at(self, place: str, where: str, folder: Path, pin: str | None, control: Control) -> Sight | None:
        if "://" in where:
            path = file_of(where)
            if path is None:
                return Sight(looking.url(where, guard.policy(self._config)))
        else:
            path = folder / where
        signs = looking.signs(path)
        if place not in self._known or self._known[place][0] != signs:
            if self._moving.get(place) != signs:
                self._moving[place] = signs
                return None
            content = looking.content(path, self._config, control)
            if looking.signs(path) != signs:
                return None
            self._moving.pop(place, None)
            self._known[place] = signs, content
        value = self._known[place][1]
        if self._watched.seen(_name(place)) is not None:
            return Sight(value)
        pinned = self._watched.pinned(place.partition("/")[0])
        return Sight(value, looking.last_build(pinned, path, folder, value, pin))

    def _built(self, place: str, pin: str) -> str | None:
        if self._watched.seen(_name(place)) is not None:
            return None
        return self._watched.pinned(place.partition("/")[0]).get(pin)

    def saw(self, trigger: Trigger, sight: Sight) -> None:
        """Receive an event if it changed, then remember the state."""
        watch = str(trigger.given["watch"])
        name = _name(f"{trigger.image}/{watch}")
        seen = self._watched.seen(name)
        generation, before = _seen(seen[0]) if seen else (0, sight.built)
        if before is not None and not looking.same(before, sight.value):
            generation += 1
            event = _event(trigger.image, watch, before, sight.value, generation)
            self._inbox.receive([event], listener="watch")
        elif seen is not None and before is not None:
            return
        self._watched.see(name, json.dumps({"generation": generation, "value": sight.value}))


def _name(place: str) -> str:
    return f"watch:{place}"


def _seen(text: str) -> tuple[int, str | None]:
    try:
        known = json.loads(text)
        return int(known["generation"]), str(known["value"])
    except (ValueError, TypeError, KeyError):
        return 0, None


def _event(image: str, watch: str, before: str, after: str, generation: int) -> Event:
    """The generation is in the id: an input that goes back and forth has a new event each time."""
    return Event(
        source=SOURCE,
        id=f"{image}/{watch}/{_mark(before)}..{_mark(after)}#{generation}",
        type=CHANGED,
        subject=image,
        time=time.time(),
        data={"image": image, "input": watch, "before": before, "after": after},
    )


def _mark(value: str) -> str:
    return value if len(value) <= 64 else hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
