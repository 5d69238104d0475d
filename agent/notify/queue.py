"""What is still to be told, on disk: bounded, in order for each receiver, each thing once within its period.

A recovery ends the period of the troubles before it, and a trouble that of the recoveries: whoever was told of the one
has to hear of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, Protocol

from agent.notify.notices import TROUBLES, Notice
from agent.values import frozen

_OF_TROUBLE = TROUBLES | {"recovered"}
NOTICE_KIND, MARK_KIND, STATE_KIND = "notice", "notice_mark", "notice_state"
QUEUE_LIMIT = 256
RECEIVER_LIMIT = 32
MARK_LIMIT = 2048
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
GIVEN_UP_AFTER = 86400.0


class Store(Protocol):
    """What the queue needs of the database."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make the calls inside one atomic change."""

    def put_many(self, kind: str, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Store documents."""

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every document, in key order."""

    def delete(self, kind: str, *keys: str) -> None:
        """Remove documents."""


@frozen
class Entry:
    """One notice for one receiver. ``due`` and ``added`` are epoch seconds."""

    key: str
    receiver: str
    notice: Notice
    added: float
    attempts: int = 0
    due: float = 0.0


@frozen
class Mark:
    """That a receiver was told: when (epoch seconds), of which app, and what kind of notice it was."""

    at: float
    app: str = ""
    kind: str = ""

    def is_over(self, notice: Notice) -> bool:
        """Whether a later notice is news of the opposite: of a recovery after trouble, or of trouble after that."""
        if notice.app != self.app:
            return False
        return self.kind in TROUBLES if notice.kind == "recovered" else notice.is_trouble and self.kind == "recovered"


class NoticeQueue:
    """Used by one thread. What cannot be written is raised as HoldfastError, and nothing has changed then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries = {key: _decode(key, document) for key, document in store.all(NOTICE_KIND).items()}
        self._marks = {key: _decode_mark(document) for key, document in store.all(MARK_KIND).items()}
        state = store.all(STATE_KIND)
        self.cursor: int | None = state.get("cursor", {}).get("number")
        self.troubles = {
            key.partition("/")[2]: str(document["reason"]) for key, document in state.items() if "/" in key
        }
        self._next = max((int(key) for key in self._entries), default=0) + 1

    def set_cursor(self, number: int) -> None:
        """Every event up to this one has been looked at."""
        self._store.put_many(STATE_KIND, [("cursor", {"number": number})])
        self.cursor = number

    def add(self, notice: Notice, receivers: Mapping[str, float], number: int, now: float) -> list[str]:
        """Queue a notice of event ``number`` for receivers, given with their periods (seconds), unless they were told
        the same within that time. Returns the receivers whose oldest notice had to be given up for want of room."""
        fresh = [name for name, period in receivers.items() if self._is_new(name, notice, period, now)]
        marks = {_mark(name, notice): name for name in fresh}
        mark = Mark(now, notice.app, notice.kind)
        over = [key for key, known in self._marks.items() if key not in marks and known.is_over(notice)]
        entries = [Entry(f"{self._next + index:016d}", name, notice, now) for index, name in enumerate(marks.values())]
        lost = self._overflow(entries)
        oldest = sorted(self._marks, key=lambda key: self._marks[key].at)[: max(0, len(self._marks) - MARK_LIMIT)]
        stale = {*over, *oldest}
        with self._store.transaction():
            self._store.put_many(NOTICE_KIND, [(entry.key, _encode(entry)) for entry in entries])
            self._store.put_many(MARK_KIND, [(key, asdict(mark)) for key in marks])
            self._store.delete(NOTICE_KIND, *(entry.key for entry in lost))
            self._store.delete(MARK_KIND, *stale)
            self._store.put_many(STATE_KIND, [("cursor", {"number": number})])
            self._keep_trouble(notice)
        self.cursor = number
        self._next += len(entries)
        self._entries.update({entry.key: entry for entry in entries})
        for entry in lost:
            self._entries.pop(entry.key, None)
        self._marks.update(dict.fromkeys(marks, mark))
        for key in stale:
            del self._marks[key]
        return [entry.receiver for entry in lost]

    def forget(self, app: str, number: int) -> None:
        """An app is gone, as event ``number`` says, and its troubles with it: what comes under its name is another."""
        stale = [key for key, known in self._marks.items() if known.app == app and known.kind in _OF_TROUBLE]
        with self._store.transaction():
            self._store.delete(STATE_KIND, f"trouble/{app}")
            self._store.delete(MARK_KIND, *stale)
            self._store.put_many(STATE_KIND, [("cursor", {"number": number})])
        self.cursor = number
        self.troubles.pop(app, None)
        for key in stale:
            del self._marks[key]

    def _keep_trouble(self, notice: Notice) -> None:
        if notice.is_trouble:
            self._store.put_many(STATE_KIND, [(f"trouble/{notice.app}", {"reason": notice.reason})])
            self.troubles[notice.app] = notice.reason
        elif notice.kind == "recovered":
            self._store.delete(STATE_KIND, f"trouble/{notice.app}")
            self.troubles.pop(notice.app, None)

    def _is_new(self, receiver: str, notice: Notice, period: float, now: float) -> bool:
        before = self._marks.get(_mark(receiver, notice))
        return before is None or not 0 <= now - before.at < period

    def _overflow(self, fresh: list[Entry]) -> list[Entry]:
        """The oldest that have to go: of a receiver with too many, and of all."""
        every = [*self._entries.values(), *fresh]
        lost: dict[str, Entry] = {}
        for name in {entry.receiver for entry in fresh}:
            mine = [entry for entry in every if entry.receiver == name]
            lost |= {entry.key: entry for entry in mine[: max(0, len(mine) - RECEIVER_LIMIT)]}
        left = [entry for entry in every if entry.key not in lost]
        lost |= {entry.key: entry for entry in left[: max(0, len(left) - QUEUE_LIMIT)]}
        return list(lost.values())

    def heads(self) -> list[Entry]:
        """The oldest entry of each receiver."""
        found: dict[str, Entry] = {}
        for _, entry in sorted(self._entries.items()):
            found.setdefault(entry.receiver, entry)
        return list(found.values())

    def done(self, entry: Entry) -> None:
        """It was delivered, or is given up."""
        self._store.delete(NOTICE_KIND, entry.key)
        self._entries.pop(entry.key, None)

    def retry(self, entry: Entry, wait: float, now: float) -> bool:
        """It failed: try again after a growing time, at least ``wait`` seconds; False when a day has gone by."""
        if not 0 <= now - entry.added < GIVEN_UP_AFTER:
            self.done(entry)
            return False
        pause = max(wait, min(FIRST_WAIT * 2 ** min(entry.attempts, 16), LONGEST_WAIT))
        later = replace(entry, attempts=entry.attempts + 1, due=now + pause)
        self._store.put_many(NOTICE_KIND, [(entry.key, _encode(later))])
        if entry.key in self._entries:
            self._entries[entry.key] = later
        return True


def _mark(receiver: str, notice: Notice) -> str:
    words = "\n".join((receiver, notice.app, notice.kind, notice.reason, notice.revision))
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def _decode_mark(document: Mapping[str, Any]) -> Mark:
    """Earlier versions wrote down only when it was."""
    return Mark(float(document["at"]), str(document.get("app", "")), str(document.get("kind", "")))


def _encode(entry: Entry) -> dict[str, Any]:
    document = asdict(entry)
    del document["key"]
    return document


def _decode(key: str, document: Mapping[str, Any]) -> Entry:
    fields = {**document, "notice": Notice(**document["notice"])}
    return Entry(key, **fields)
