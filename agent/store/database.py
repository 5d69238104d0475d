"""Records in SQLite: one table a kind, JSON documents by key.

Write-ahead logging with ``synchronous=NORMAL``: a commit survives kill -9; a power cut may lose the last
commits but never the database's consistency (https://sqlite.org/wal.html), and what ran is gone then anyway.
Kinds that hold secrets are sealed (``agent.store.sealing``): their values are bytes, and only their keys readable.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.errors import Stalled, Waiting
from agent.store.migrations import STEPS, Step, compute_version, migrate
from agent.store.sealing import Seal

SCHEMA_VERSION = compute_version()
RECORD_TABLE = "(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_FULL = ("InsufficientStorage", "make room on the file system of the data root")
_HELD = ("DatabaseHeld", "another program has locked it: end that one")
_FAULTS = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
    sqlite3.SQLITE_CANTOPEN: _FULL,
    sqlite3.SQLITE_BUSY: _HELD,
    sqlite3.SQLITE_LOCKED: _HELD,
    sqlite3.SQLITE_READONLY: ("DatabaseReadOnly", "see why its file system is mounted read-only"),
}
"""What time or people mend, by SQLite's primary result code: https://sqlite.org/rescode.html"""
_KIND = re.compile(r"[a-z_]{1,32}\Z")


class Database:
    """A thread-safe document store. Every call is one transaction unless wrapped in ``transaction``.

    Documents of the kinds in ``sealed`` are written under ``seal`` only.
    """

    def __init__(
        self, path: Path, seal: Seal | None = None, sealed: Collection[str] = (), steps: Sequence[Step] = STEPS
    ) -> None:
        self._seal = seal
        self._sealed = frozenset(sealed) if seal is not None else frozenset()
        self._lock = threading.RLock()
        self._depth = 0
        self._kinds: set[str] = set()
        with _translated():
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                path.chmod(0o600)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._connection.execute("PRAGMA cache_size=-512")
                migrate(self._connection, path, steps)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Flush and close; the object is unusable afterwards."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the calls inside one atomic change. Nests. Raises Waiting when the file cannot be written."""
        with self._lock, _translated():
            outermost = self._depth == 0
            if outermost:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if outermost and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if outermost:
                self._commit()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Store ``value`` under ``key``, replacing what was there."""
        self.put_many(kind, [(key, value)])

    def put_many(self, kind: str, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Store several documents of one kind in one transaction."""
        rows = [(key, self._encode(kind, key, value)) for key, value in items]
        with self.transaction():
            self._ensure(kind)
            self._connection.executemany(f"INSERT OR REPLACE INTO {kind}_records VALUES (?, ?)", rows)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The document, or None."""
        with self._lock, _translated():
            self._ensure(kind)
            row = self._connection.execute(f"SELECT value FROM {kind}_records WHERE key = ?", (key,)).fetchone()
        return self._decode(kind, key, row[0]) if row else None

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every document of a kind by its key, in key order."""
        with self._lock, _translated():
            self._ensure(kind)
            rows = self._connection.execute(f"SELECT key, value FROM {kind}_records ORDER BY key").fetchall()
        return {key: self._decode(kind, key, value) for key, value in rows}

    def delete(self, kind: str, *keys: str) -> None:
        """Remove documents; absent keys are fine."""
        with self.transaction():
            self._ensure(kind)
            self._connection.executemany(f"DELETE FROM {kind}_records WHERE key = ?", [(key,) for key in keys])

    def _encode(self, kind: str, key: str, value: Mapping[str, Any]) -> str | bytes:
        text = json.dumps(value, separators=(",", ":"))
        return self._seal.seal(text, f"{kind}/{key}") if self._seal and kind in self._sealed else text

    def _decode(self, kind: str, key: str, stored: str | bytes) -> dict[str, Any]:
        """Raises Stalled for what was sealed under another key."""
        if isinstance(stored, bytes):
            if self._seal is None:
                raise Stalled(f"the record {kind}/{key} of the database is sealed", reason="RecordSealed")
            stored = self._seal.unseal(stored, f"{kind}/{key}")
        document: dict[str, Any] = json.loads(stored)
        return document

    def _ensure(self, kind: str) -> None:
        if kind in self._kinds:
            return
        if not _KIND.match(kind):
            raise ValueError(f"not a record kind: {kind!r}")
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {kind}_records {RECORD_TABLE}")
        if not self._connection.in_transaction:
            self._kinds.add(kind)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        known = _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if known is None:
            raise
        reason, hint = known
        raise Waiting(f"the database cannot be used: {error}", reason=reason, hint=hint) from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:
            raise
        raise Stalled(
            f"the database is damaged: {error}",
            reason="DatabaseDamaged",
            hint="move holdfast.db aside and start again: containers are made anew, volumes and images stay",
        ) from error
