"""The inbox: events in SQL, each once, and durable before their sender is told so.

Threads that receive at the same time share a transaction (the first one in writes for all who came
meanwhile): a commit costs the disk as much for one event as for a hundred.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from imageflow.cloudevent import own
from imageflow.errors import BadInput, Conflict, ImageflowError
from imageflow.model import Event, Receipt, Verdict
from imageflow.persistence import events, observations
from imageflow.persistence.database import Database

LOG = logging.getLogger(__name__)
UNREADABLE = "imageflow.unreadable"  # type of what nobody can read; it is kept as text
MAX_DATA = 8 << 20  # bytes of an event's data as JSON
_LONG = 2048  # characters of source, id and subject
_TYPE = 255
_QUARANTINE = 65536  # bytes of what nobody can read that are kept
_INSIDE = {"imageflow", "schedule", "watch"}  # listeners that speak for us
_GATHER = 0.002  # seconds that others get to come, when there were others
PATIENCE = 5.0  # seconds that a sender waits for a database that is away


@dataclass
class _Batch:
    """What one thread wants stored."""

    batch: Sequence[Event]
    receipts: list[Receipt] | None = None
    error: Exception | None = None
    over: bool = field(default=False)


class SqlInbox:
    """The inbox in the database; threads may share it."""

    def __init__(
        self,
        database: Database,
        wake: Callable[[], None] = lambda: None,
        heard: Callable[[Sequence[Event]], None] = lambda _: None,
    ) -> None:
        """`wake` is called after each commit, `heard` with what was new in it."""
        self._database = database
        self._heard = heard
        self._wake = wake
        self._turn = threading.Condition()
        self._queue: list[_Batch] = []
        self._writing = False
        self._crowded = False  # the last transaction had several threads' events
        self._refused: Counter[tuple[str, str]] = Counter()
        self._refused_lock = threading.Lock()

    def receive(self, batch: Sequence[Event], *, listener: str, proof: str | None = None) -> list[Receipt]:
        """See listeners.Inbox."""
        for event in batch:
            _check(event, listener)
        if not batch:
            return []
        batch = [replace(event, listener=listener) for event in batch]
        receipts = self._store_proven(batch, proof) if proof else self._store_with_others(batch)
        if new := [receipt.event for receipt in receipts if receipt.new]:
            self._heard(new)
            self._wake()
        return receipts

    def quarantine(self, listener: str, source: str, raw: bytes, reason: str) -> Receipt:
        """See listeners.Inbox."""
        event = Event(
            source=_printable(source)[:_LONG] or listener,
            id=f"sha256:{hashlib.sha256(raw).hexdigest()}",
            type=UNREADABLE,
            data={"raw": _printable(raw[:_QUARANTINE].decode(errors="replace")), "bytes": len(raw)},
        )
        LOG.warning("%s: an event from %s can't be read, it is in quarantine: %s", listener, event.source, reason)

        def store(conn: sa.Connection) -> Receipt:
            [(stored, new)] = events.add(
                conn, [event], listener=listener, now=time.time(), verdict=Verdict.QUARANTINED, reason=reason
            )
            return Receipt(stored, new)

        return self._database.transact(store, patience=PATIENCE)

    def refuse(self, endpoint: str, reason: str) -> None:
        """See listeners.Inbox."""
        with self._refused_lock:
            self._refused[endpoint, reason] += 1

    def flush(self) -> None:
        """Write down the counts of what was refused; they come in floods, so not one by one."""
        with self._refused_lock:
            counts, self._refused = self._refused, Counter()
        if not counts:
            return
        try:
            self._database.transact(lambda conn: observations.refused(conn, counts, time.time()))
        except ImageflowError:
            with self._refused_lock:
                self._refused.update(counts)
            raise

    def _store_with_others(self, batch: Sequence[Event]) -> list[Receipt]:
        mine = _Batch(batch)
        with self._turn:
            self._queue.append(mine)
            while self._writing and not mine.over:
                self._turn.wait()
            if self._crowded and not mine.over:  # those who wrote with us last time come again now
                self._turn.wait_for(lambda: mine.over or self._writing, timeout=_GATHER)
                while self._writing and not mine.over:
                    self._turn.wait()
            together: list[_Batch] = []
            if not mine.over:
                together, self._queue, self._writing = self._queue, [], True
                self._crowded = len(together) > 1
        if together:
            try:
                self._store(together)
            finally:
                with self._turn:
                    self._writing = False
                    self._turn.notify_all()
        if mine.error is not None:
            raise mine.error
        assert mine.receipts is not None
        return mine.receipts

    def _store(self, together: Sequence[_Batch]) -> None:
        """Store what several threads want in one transaction, and tell each what came of its own."""
        try:
            batch = [event for one in together for event in one.batch]
            stored = self._database.transact(lambda conn: events.add(conn, batch, now=time.time()), patience=PATIENCE)
            receipts = iter([Receipt(*each) for each in stored])
            for one in together:
                one.receipts = list(itertools.islice(receipts, len(one.batch)))
        except Exception as error:  # noqa: BLE001 - each waiting thread has to get it
            if len(together) == 1 or isinstance(error, ImageflowError):
                for one in together:
                    one.error = error
            else:  # one of them is not storable: it must not take the others with it
                for one in together:
                    self._store([one])
        finally:
            for one in together:
                one.over = True

    def _store_proven(self, batch: Sequence[Event], proof: str) -> list[Receipt]:
        first = events.digest(batch[0].source, batch[0].id)
        replay = Conflict("the same signed message came before under another delivery id", hint="it is a replay")

        def store(conn: sa.Connection) -> list[Receipt]:
            if events.proven(conn, proof, but=first):
                raise replay
            now = time.time()
            stored = events.add(conn, batch[:1], now=now, proof=proof) + events.add(conn, batch[1:], now=now)
            return [Receipt(*one) for one in stored]

        try:
            return self._database.transact(store, patience=PATIENCE)
        except (sa.exc.IntegrityError, Conflict) as error:
            raise replay from error


def _check(event: Event, listener: str) -> None:
    """Raises BadInput for what can't be an event."""
    for name, limit in (("source", _LONG), ("id", _LONG), ("type", _TYPE), ("subject", _LONG)):
        value = getattr(event, name)
        if value is None and name == "subject":
            continue
        if not isinstance(value, str) or not value:
            raise BadInput(f"the event has no {name}", hint="CloudEvents 1.0 asks for specversion, source, id and type")
        if len(value) > limit:
            raise BadInput(f"the event's {name} has more than {limit} characters")
        if value != _printable(value):
            raise BadInput(f"the event's {name} has characters that are no text")
    if own(event.source) and listener not in _INSIDE:
        raise BadInput(f"the event says that it comes from {event.source!r}, which is imageflow itself")
    try:
        size = len(json.dumps(event.data))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the event's data is no JSON: {error}") from error
    if size > MAX_DATA:
        raise BadInput(f"the event's data has more than {MAX_DATA >> 20} MiB")


def _printable(text: str) -> str:
    """Without what a database can't hold, or a terminal should not see: control characters, half surrogates."""
    return "".join(c for c in text if (c >= " " or c in "\n\t") and not 0xD800 <= ord(c) <= 0xDFFF and c != "\x7f")
