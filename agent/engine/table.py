"""The one list of containers: in memory for speed, in the database so that a crash forgets nothing.

States only grow: a change that would move a container backwards is dropped here, so that late or repeated
events do no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from agent.engine.model import ContainerRecord, ContainerState
from agent.engine.records import decode_record, encode_record
from agent.errors import Conflict, NotFound
from agent.store.database import Database

_ORDER = {state: position for position, state in enumerate(ContainerState)}
KIND = "container"


class ContainerTable:
    """Every container of this agent, by id. Thread-safe; records are immutable values."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._records = {key: decode_record(value) for key, value in database.all(KIND).items()}
        self._snapshot: tuple[ContainerRecord, ...] | None = None
        self._unwritten: set[str] = set()

    def all(self) -> tuple[ContainerRecord, ...]:
        """All records, oldest first. Cheap: the tuple is shared until something changes."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = tuple(sorted(self._records.values(), key=lambda record: record.created))
            return self._snapshot

    def get(self, container_id: str) -> ContainerRecord:
        """The record of an id. Raises NotFound."""
        record = self._records.get(container_id)
        if record is None:
            raise NotFound(f"no container {container_id[:12]}", hint="holdfast ps lists them")
        return record

    def knows(self, container_id: str) -> bool:
        """Whether there is a container of that id."""
        return container_id in self._records

    def has_ended(self, container_id: str) -> bool:
        """Whether nothing of it runs any more; so it is for one that is gone."""
        record = self._records.get(container_id)
        return record is None or record.state.ended

    def find(self, name: str) -> ContainerRecord:
        """The container of an id, a name (the newest, if a replacement shares it) or an unambiguous id prefix."""
        if name in self._records:
            return self.get(name)
        records, named = self.all(), self.named(name)
        if named:
            return max(named, key=lambda record: (record.state is ContainerState.RUNNING, record.created))
        matches = [record for record in records if len(name) >= 4 and record.id.startswith(name)]
        if len(matches) > 1:
            raise Conflict(f"{name!r} is the beginning of {len(matches)} container ids", hint="give more of it")
        return matches[0] if matches else self.get(name)

    def named(self, name: str) -> tuple[ContainerRecord, ...]:
        """The containers of a name, oldest first: more than one while one replaces another."""
        return tuple(record for record in self.all() if record.name == name)

    def add(self, record: ContainerRecord, beside: Callable[[], None] | None = None) -> None:
        """Store a new record; on disk before it returns, with what ``beside`` stores in the same transaction."""
        with self._writing:
            self._write(record, beside=beside)
            with self._lock:
                self._records[record.id] = record
                self._snapshot = None

    def advance(self, container_id: str, *, persist: bool = True, **changes: Any) -> ContainerRecord | None:
        """Apply ``changes``; None when there is no such container or its state would move backwards or stay."""
        with self._lock:
            old = self._records.get(container_id)
            if old is None or _ORDER[changes.get("state", old.state)] <= _ORDER[old.state]:
                return None
            new = replace(old, **changes)
            self._records[container_id] = new
            self._snapshot = None
        if persist:
            self.persist(container_id)
        return new

    def persist(self, container_id: str) -> None:
        """Write the record as it is now, never an older one over a newer; nothing to do when it is gone."""
        with self._writing:
            record = self._records.get(container_id)
            if record is not None:
                self._write(record)

    def persist_later(self, container_id: str) -> None:
        """Write the record with the next one that is written, or at the next ``flush``: what a crash may lose of it
        the keeper knows."""
        with self._lock:
            self._unwritten.add(container_id)

    def flush(self) -> None:
        """Write what waits to be written."""
        with self._writing:
            self._write()

    def _write(self, *records: ContainerRecord, beside: Callable[[], None] | None = None) -> None:
        """Write these records and those that wait, in one transaction; when it fails those still wait."""
        with self._lock:
            waiting, self._unwritten = self._unwritten, set()
            found = [record for key in waiting if (record := self._records.get(key)) is not None]
        rows = {record.id: encode_record(record) for record in (*found, *records)}
        try:
            if rows:
                self._put(rows, beside)
        except BaseException:
            with self._lock:
                self._unwritten |= waiting
            raise

    def _put(self, rows: dict[str, dict[str, Any]], beside: Callable[[], None] | None) -> None:
        with self._database.transaction():
            if beside is not None:
                beside()
            self._database.put_many(KIND, rows.items())

    def delete(self, container_ids: Iterable[str]) -> None:
        """Forget containers, on disk first."""
        ids = tuple(container_ids)
        with self._writing:
            self._database.delete(KIND, *ids)
            with self._lock:
                for container_id in ids:
                    self._records.pop(container_id, None)
                self._snapshot = None
