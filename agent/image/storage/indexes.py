"""Indexes of images for several platforms: kept as they came, by the name they came for, so that they can be pushed.

An index is only data here: images are recorded, found and removed by themselves. It counts as long as it lists the
image that its name stands for now.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Set
from typing import Any

from agent.errors import Refused
from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import Records
from agent.oci.manifest import Index, decode_manifest
from agent.oci.reference import Reference
from agent.values import frozen

KIND = "image_index"
MAX_INDEX = 256 << 10
"""Longer ones are not kept; then a new one is made for a push."""


@frozen
class StoredIndex:
    """An index: its bytes, its media type, and what it says."""

    data: bytes
    kind: str
    index: Index


class IndexRecords:
    """The indexes that pulls met. Thread-safe."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._found: dict[str, dict[str, Any]] = records.all(KIND)

    def note(self, reference: Reference, data: bytes, kind: str) -> None:
        """Keep the verified index that a reference led to."""
        if len(data) > MAX_INDEX:
            return
        name, document = str(reference), {"data": data.decode(), "kind": kind}
        with self._lock:
            if self._found.get(name) != document:
                self._records.put(KIND, name, document)
                self._found[name] = document

    def find(self, reference: Reference, current: ImageEntry) -> StoredIndex | None:
        """The index that came for a reference, if it lists ``current``, which has the name now."""
        document = self._found.get(str(reference))
        if document is None:
            return None
        try:
            data, kind = str(document["data"]).encode(), str(document["kind"])
            index = decode_manifest(data, kind)
        except (KeyError, Refused):
            return None
        if not isinstance(index, Index) or current.digest not in {entry.digest for entry in index.manifests}:
            return None
        return StoredIndex(data, kind, index)

    def forget(self, entries: Iterable[ImageEntry]) -> None:
        """Drop the indexes of names that none of ``entries`` has, alone or with a digest behind it."""
        with self._lock:
            self._drop(self._found.keys() - _keys_of(entries))

    def forget_of(self, gone: ImageEntry, left: Iterable[ImageEntry]) -> None:
        """An image was removed: drop the indexes of its names that none of the others, ``left``, has."""
        with self._lock:
            self._drop(self._found.keys() & _keys_of([gone]) - _keys_of(left))

    def _drop(self, names: Set[str]) -> None:
        if names:
            self._records.delete(KIND, *names)
            self._found = {name: document for name, document in self._found.items() if name not in names}


def _keys_of(entries: Iterable[ImageEntry]) -> set[str]:
    names = {name for entry in entries for name in entry.names}
    return names | {name.rpartition("@")[0] for name in names}
