"""The digests of files that have not changed since they were hashed: by inode, size, mtime and ctime, in memory.

Nobody but root can set a ctime. A file that changed in the last seconds is not remembered: it could change once
more within the grain of the clock.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

MAX_STAMPS = 50_000
_SETTLED_NS = 2_000_000_000
_KEY = struct.Struct("=QQQqq")


class FileFacts(NamedTuple):
    """The SHA-256 of a file's bytes, and those of its extended attributes that a layer keeps."""

    digest: bytes
    xattrs: tuple[tuple[str, bytes], ...] = ()


class StampCache:
    """Thread-safe; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, FileFacts] = OrderedDict()

    def find(self, status: os.stat_result) -> FileFacts | None:
        """What is known of the file with this status."""
        key = _compute_key(status)
        with self._lock:
            facts = self._known.get(key)
            if facts is not None:
                self._known.move_to_end(key)
        return facts

    def put(self, status: os.stat_result, facts: FileFacts) -> None:
        """Remember a file; ``status`` was read before and after its bytes and is the same."""
        if max(status.st_mtime_ns, status.st_ctime_ns) + _SETTLED_NS > time.time_ns():
            return
        with self._lock:
            self._known[_compute_key(status)] = facts
            while len(self._known) > MAX_STAMPS:
                self._known.popitem(last=False)


def _compute_key(status: os.stat_result) -> bytes:
    mask = (1 << 64) - 1
    return _KEY.pack(
        status.st_dev & mask, status.st_ino & mask, status.st_size & mask, status.st_mtime_ns, status.st_ctime_ns
    )
