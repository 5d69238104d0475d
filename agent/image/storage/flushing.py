"""Snapshots brought to the disk behind the back of whoever made them."""

from __future__ import annotations

import threading
from contextlib import suppress

from agent.errors import HoldfastError
from agent.image.storage.snapshots import SnapshotStore


class Flusher:
    """Thread-safe. Nothing is lost without it but time: what a power cut takes is unpacked again."""

    def __init__(self, snapshots: SnapshotStore) -> None:
        self._snapshots = snapshots
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Flush in a thread of its own."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._flush, name="snapshot-flush", daemon=True))
            self._threads[-1].start()

    def _flush(self) -> None:
        """On a full disk, say, it is left to the next time."""
        with suppress(HoldfastError, OSError):
            self._snapshots.flush()

    def wait(self) -> None:
        """Return when all that was begun is on the disk."""
        with self._lock:
            running = list(self._threads)
        for thread in running:
            thread.join()
