"""The inbox: events in SQL, each once, and durable before their sender is told so.

Threads that receive at the same time share a transaction (the first one writes for all that arrive in
the meantime): a commit costs the disk as much for one event as for a hundred.
"""

from __future__ import annotations

import contextlib
import functools
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

from imageflow.errors import BadInput, Conflict, ImageflowError
from imageflow.events.bound import Bound
from imageflow.events.own import own
from imageflow.model import Event, Receipt, Verdict
from imageflow.persistence import events, observations, proofs
from imageflow.persistence.database import Database
from imageflow.persistence.patience import EVENT

LOG = logging.getLogger(__name__)
UNREADABLE = "imageflow.unreadable"  # type of unreadable events; they are kept as text
MAX_DATA = 8 << 20  # bytes of an event's data as JSON
_LONG = 2048  # characters of source, id and subject
_TYPE = 255
_QUARANTINE = 65536  # bytes of an unreadable event that are kept
_INSIDE = {"imageflow", "schedule", "watch"}  # listeners that speak for imageflow
_KINDS = 500  # endpoints and reasons of refusals that are counted one by one
_RIVALS = 3  # tries to store an event that others with the same proof are storing
_GATHER = 0.002  # seconds to wait for other threads, if there were others last time


@dataclass
class _Batch:
    """The events that one thread wants to store."""

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
        bound: Bound | None = None,
    ) -> None:
        """`wake` is called after each commit, `heard` with its new events; `bound`: how much is kept."""
        self._database = database
        self._bound = bound or Bound(database)
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
        with self._bound.admitted(batch):
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

        with self._bound.admitted([event]):
            return self._database.transact(store, patience=EVENT)

    def refuse(self, endpoint: str, reason: str) -> None:
        """See listeners.Inbox."""
        with self._refused_lock:
            if len(self._refused) >= _KINDS and (endpoint, reason) not in self._refused:
                endpoint, reason = "other", "other"
            self._refused[endpoint, reason] += 1

    def flush(self) -> None:
        """Write the counts of refusals; they come in floods, so not one by one."""
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

    def ready(self) -> None:
        """See listeners.Inbox."""
        with self._bound.admitted([]):
            self._database.transact(lambda conn: observations.see(conn, "imageflow: ready", "yes", time.time()))

    def _store_with_others(self, batch: Sequence[Event]) -> list[Receipt]:
        mine = _Batch(batch)
        with self._turn:
            self._queue.append(mine)
            while self._writing and not mine.over:
                self._turn.wait()
            if self._crowded and not mine.over:  # the threads that wrote with us last time come again now
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
        """Store the batches of several threads in one transaction, and give each thread its result."""
        try:
            batch = [event for one in together for event in one.batch]
            stored = self._database.transact(lambda conn: events.add(conn, batch, now=time.time()), patience=EVENT)
            receipts = iter([Receipt(*each) for each in stored])
            for one in together:
                one.receipts = list(itertools.islice(receipts, len(one.batch)))
        except Exception as error:  # noqa: BLE001 - each waiting thread has to get it
            if len(together) == 1 or isinstance(error, ImageflowError):
                for one in together:
                    one.error = error
            else:  # one of them can't be stored: it must not take the others with it
                for one in together:
                    self._store([one])
        finally:
            for one in together:
                one.over = True

    def _store_proven(self, batch: Sequence[Event], proof: str) -> list[Receipt]:
        """Store events of a signed delivery; the same signature under another delivery id makes them `repeated`."""
        for _ in range(_RIVALS):
            with contextlib.suppress(sa.exc.IntegrityError, Conflict):  # another delivery with this proof was faster
                return self._database.transact(functools.partial(_add_proven, batch=batch, proof=proof), patience=EVENT)
        return self._database.transact(functools.partial(_add_proven, batch=batch, proof=proof), patience=EVENT)


def _add_proven(conn: sa.Connection, batch: Sequence[Event], proof: str) -> list[Receipt]:
    first = events.digest(batch[0].source, batch[0].id)
    known = proofs.remembered(conn, proof)
    if known is not None and known[0] == first and events.known(conn, batch[0].source, batch[0].id) is None:
        return [Receipt(replace(event, seq=known[1]), False) for event in batch]
    repeated = known is not None or events.proven(conn, proof, but=first)
    now = time.time()
    if not repeated:
        stored = events.add(conn, batch[:1], now=now, proof=proof) + events.add(conn, batch[1:], now=now)
        return [Receipt(*one) for one in stored]
    receipts = []
    for event in batch:
        mark = proofs.again(events.digest(event.source, event.id))
        receipts += [Receipt(*one) for one in events.add(conn, [event], now=now, proof=mark)]
    return receipts


def _check(event: Event, listener: str) -> None:
    """Raises BadInput for an invalid event."""
    for name, limit in (("source", _LONG), ("id", _LONG), ("type", _TYPE), ("subject", _LONG)):
        value = getattr(event, name)
        if value is None and name == "subject":
            continue
        if not isinstance(value, str) or not value:
            raise BadInput(f"the event has no {name}", hint="CloudEvents 1.0 requires specversion, source, id and type")
        if len(value) > limit:
            raise BadInput(f"the event's {name} has more than {limit} characters")
        if value != _printable(value):
            raise BadInput(f"the event's {name} has characters that are not text")
    if own(event.source) and listener not in _INSIDE:
        raise BadInput(f"the event says that it comes from {event.source!r}, which is imageflow itself")
    try:
        size = len(json.dumps(event.data))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the event's data is not JSON: {error}") from error
    if size > MAX_DATA:
        raise BadInput(f"the event's data has more than {MAX_DATA >> 20} MiB")


def _printable(text: str) -> str:
    """Removes what a database can't hold, or a terminal should not see: control characters, half surrogates."""
    return "".join(c for c in text if (c >= " " or c in "\n\t") and not 0xD800 <= ord(c) <= 0xDFFF and c != "\x7f")
