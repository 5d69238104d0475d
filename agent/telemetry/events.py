"""What happened, for people and streams: a bounded ring, kept across restarts, followed without ever blocking.

An event is written to the database a moment after it was recorded, in batches; ``flush`` writes at once. The
controller flushes before it stores what it has decided, so that no decision is on disk whose event is not: a crash
of the agent may tell one twice, and loses only events that nothing followed from.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, field
from typing import Any, Protocol

from agent.errors import HoldfastError
from agent.telemetry.redaction import redact, redact_text
from agent.values import frozen

KIND = "event"
APP_GONE = "AppGone"
RING_LIMIT = 2000
QUEUE_LIMIT = 512
BATCH_SECONDS, RETRY_SECONDS = 0.03, 5.0
MESSAGE_LIMIT = 4096
DETAILS_LIMIT = 16384


class EventStore(Protocol):
    """What the log needs of the database."""

    def put_many(self, kind: str, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Store documents in one transaction."""

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every document, in key order."""

    def delete(self, kind: str, *keys: str) -> None:
        """Remove documents."""


@frozen
class Event:
    """One thing that happened. ``number`` grows by one; ``at`` is epoch seconds; unknown objects are empty.

    ``kind`` says what it is about: container, service, app, image, network, agent; ``reason`` is PascalCase.
    ``details`` are plain JSON values for programs, such as the container's ``id`` and the ``revision``.
    """

    number: int
    at: float
    kind: str
    app: str = ""
    service: str = ""
    container: str = ""
    reason: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The event as a JSON document."""
        return asdict(self)


class Subscription:
    """One reader's bounded queue. ``wake`` is called, from any thread, when something can be drained."""

    def __init__(self, wake: Callable[[], None], limit: int) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Event] = deque()
        self._limit = limit
        self._wake = wake
        self.dropped = False

    def push(self, event: Event) -> bool:
        """Queue an event; False when this reader was too slow and gets nothing more."""
        with self._lock:
            self.dropped = self.dropped or len(self._queue) >= self._limit
            if not self.dropped:
                self._queue.append(event)
        self._wake()
        return not self.dropped

    def drain(self) -> tuple[Event, ...]:
        """Take what has come since the last call."""
        with self._lock:
            taken = tuple(self._queue)
            self._queue.clear()
        return taken


class EventLog:
    """The ring of the last ``limit`` events and its readers. Thread-safe; ``record`` never blocks on the disk."""

    def __init__(
        self, store: EventStore | None = None, *, limit: int = RING_LIMIT, clock: Callable[[], float] = time.time
    ) -> None:
        self._lock = threading.Condition()
        self._writing = threading.Lock()
        self._store = store
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=limit)
        self._readers: list[Subscription] = []
        self._unwritten: deque[Event] = deque(maxlen=limit)
        self._closed = False
        self._writer: threading.Thread | None = None
        self._oldest_stored = self._load() if store else 1
        self._next = self._ring[-1].number + 1 if self._ring else 1

    def _load(self) -> int:
        assert self._store is not None
        documents = self._store.all(KIND)
        for document in documents.values():
            with contextlib.suppress(TypeError):
                self._ring.append(Event(**document))
        excess = list(documents)[: -(self._ring.maxlen or 1)]
        if excess:
            self._store.delete(KIND, *excess)
        return self._ring[0].number if self._ring else 1

    def record(
        self,
        kind: str,
        *,
        app: str = "",
        service: str = "",
        container: str = "",
        reason: str = "",
        message: str = "",
        **details: Any,
    ) -> Event:
        """Note that something happened; secrets in message and details are hidden. Cheap, callable from any thread."""
        text, more = redact_text(message[:MESSAGE_LIMIT]), _bound(redact(details))
        with self._lock:
            event = Event(self._next, self._clock(), kind, app, service, container, reason, text, more)
            self._next += 1
            self._ring.append(event)
            self._readers = [reader for reader in self._readers if reader.push(event)]
            if self._store is not None and not self._closed:
                self._unwritten.append(event)
                self._ensure_writer()
                self._lock.notify()
        return event

    def recent(self, limit: int = RING_LIMIT, since: float = 0.0) -> tuple[Event, ...]:
        """The last ``limit`` events at or after ``since`` (epoch seconds), oldest first."""
        with self._lock:
            return self._select(limit, since)

    def after(self, number: int) -> tuple[Event, ...]:
        """Every event that is kept with a greater number, oldest first."""
        with self._lock:
            return tuple(event for event in self._ring if event.number > number)

    @property
    def last(self) -> int:
        """The number of the newest event; 0 when there never was one."""
        with self._lock:
            return self._next - 1

    def _select(self, limit: int, since: float) -> tuple[Event, ...]:
        found = [event for event in self._ring if event.at >= since]
        return tuple(found[-limit:] if limit else ())

    def subscribe(
        self, wake: Callable[[], None], *, backlog: int = 0, since: float = 0.0, limit: int = QUEUE_LIMIT
    ) -> tuple[tuple[Event, ...], Subscription]:
        """Follow from now on, and the last ``backlog`` events first, with no gap between the two."""
        reader = Subscription(wake, limit)
        with self._lock:
            self._readers.append(reader)
            return self._select(backlog, since), reader

    def unsubscribe(self, reader: Subscription) -> None:
        """Forget a reader; one that was dropped is forgotten already."""
        with self._lock:
            self._readers = [known for known in self._readers if known is not reader]

    def flush(self) -> bool:
        """Write what was recorded so far, blocking; False when the disk does not take it now."""
        return self._write_waiting()

    def close(self) -> None:
        """Write what is left and end the writer. Events recorded later are not kept."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            writer = self._writer
        if writer is not None:
            writer.join()

    def _ensure_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_batches, name="events", daemon=True)
            self._writer.start()

    def _write_batches(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._unwritten or self._closed)
                self._lock.wait_for(lambda: self._closed, BATCH_SECONDS)
                last = self._closed
            if not self._write_waiting() and not last:
                with self._lock:
                    self._lock.wait_for(lambda: self._closed, RETRY_SECONDS)
            if last:
                return

    def _write_waiting(self) -> bool:
        """Write what waits for it; whoever comes while another writes comes back when that is on disk."""
        with self._writing:
            with self._lock:
                batch = tuple(self._unwritten)
                self._unwritten.clear()
            if not batch or self._write(batch):
                return True
            with self._lock:
                self._unwritten = deque([*batch, *self._unwritten], maxlen=self._ring.maxlen)
            return False

    def _write(self, batch: tuple[Event, ...]) -> bool:
        assert self._store is not None
        try:
            self._store.put_many(KIND, [(_key(event.number), event.as_dict()) for event in batch])
            oldest = batch[-1].number - (self._ring.maxlen or 1) + 1
            if oldest > self._oldest_stored:
                self._store.delete(KIND, *(_key(number) for number in range(self._oldest_stored, oldest)))
                self._oldest_stored = oldest
        except HoldfastError:
            return False
        return True


def _key(number: int) -> str:
    return f"{number:016d}"


def _bound(details: dict[str, Any]) -> dict[str, Any]:
    """The details as they are, or, when they are too long to be kept, their single values."""
    if not details or len(json.dumps(details)) <= DETAILS_LIMIT:
        return details
    short = {name: value for name, value in details.items() if not isinstance(value, dict | list)}
    return {name: value[:MESSAGE_LIMIT] if isinstance(value, str) else value for name, value in short.items()}
