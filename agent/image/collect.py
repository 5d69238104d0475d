"""Taking away what nobody needs: images, and blobs and snapshots that no image names.

The order is chosen for crashes: first the record, then the files. What was taken from the records and not from the
disk belongs to nobody and goes with the next sweep. All is decided and made to vanish while nobody can take a lease,
so nothing that is being pulled, started or built upon is touched; large trees are deleted after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from agent.image.storage.records import ImageEntry
from agent.image.storage.uses import Uses
from agent.image.stores import Stores
from agent.oci.digest import Digest
from agent.values import frozen

NEVER = float("inf")


@frozen
class PruneReport:
    """What was removed; ``freed`` in bytes of blobs and of snapshots' files."""

    blobs: int
    snapshots: int
    freed: int


@frozen
class Keep:
    """What has to stay: ``images`` by id; ``keys`` are digests, chain IDs and lower directories.

    Nothing that was used or made at or after ``since`` (epoch seconds) goes: when the oldest build under way began.
    """

    images: Collection[str] = ()
    keys: Collection[str | Path] = ()
    since: float = NEVER


class ImageCollector:
    """Removes from one store. Thread-safe; calls block for as long as deleting takes."""

    def __init__(self, stores: Stores, uses: Uses) -> None:
        self._content = stores.content
        self._snapshots = stores.snapshots
        self._images = stores.images
        self._leases = stores.leases
        self._uses = uses

    def unneeded(self, keep: Keep, min_age: float) -> tuple[ImageEntry, ...]:
        """The images that may go, in the order in which they should: without a name first, then the longest unused.

        Those used within ``min_age`` seconds stay.
        """
        oldest = min(time.time() - min_age, keep.since)
        found = [
            entry for entry in self._images.all() if entry.id not in keep.images and self._uses.last(entry) < oldest
        ]
        return tuple(sorted(found, key=lambda entry: (bool(entry.names), self._uses.last(entry))))

    def remove_image(self, image_id: Digest, keep: Callable[[], Keep]) -> PruneReport | None:
        """Remove an image, and what of its files nobody else needs; None when it is needed or being used after all.

        ``keep`` is asked while nobody can begin to use it.
        """
        entry = self._images.get(image_id)
        if entry is None:
            return None
        keys = {entry.id, *entry.blobs, *entry.chains}
        outcome: list[PruneReport] = []
        gone: list[Path] = []

        def remove(free: set[str]) -> None:
            wanted = keep()
            used = self._uses.last(entry) >= wanted.since
            if entry.id not in free or entry.id in wanted.images or used or self._images.get(entry.id) is None:
                return
            self._images.discard(entry.id)
            outcome.append(self._remove_files(self._select(free, wanted, wanted.since), gone))

        self._leases.while_free(keys, remove)
        self._delete(gone)
        return outcome[0] if outcome else None

    def sweep(self, keep: Keep, min_age: float, only: Collection[str] | None = None) -> PruneReport:
        """Remove the blobs, partial downloads and snapshots that no image needs and that are older than ``min_age``
        seconds; none but those in ``only``, digests and chain IDs, where it is given."""
        oldest = min(time.time() - min_age, keep.since)
        keys = {str(blob) for blob in (*self._content.all(), *self._content.partial())}
        keys |= {snapshot.chain for snapshot in self._snapshots.all()}
        keys = keys if only is None else keys & set(only)
        outcome: list[PruneReport] = []
        gone: list[Path] = []
        self._leases.while_free(
            keys, lambda free: outcome.append(self._remove_files(self._select(free, keep, oldest), gone))
        )
        self._delete(gone)
        return outcome[0]

    def _select(self, keys: Collection[str], keep: Keep, oldest: float) -> set[str]:
        """Those of ``keys`` that no image names, that are not to be kept, and that are older than ``oldest``."""
        wanted = {str(key) for key in keep.keys}
        wanted.update(key for entry in self._images.all() for key in (*entry.blobs, *entry.chains))
        return {key for key in keys if key not in wanted and self._may_go(key, wanted, oldest)}

    def _may_go(self, key: str, wanted: Collection[str], oldest: float) -> bool:
        snapshot = self._snapshots.find(key)
        if snapshot is not None:
            tree = self._snapshots.tree(snapshot.number)
            if str(tree) in wanted or not _is_old(self._snapshots.directory(snapshot.number), oldest):
                return False
        if not key.startswith("sha256:"):
            return True
        blob = Digest(key)
        return _is_old(self._content.path(blob), oldest) and _is_old(self._content.ingest_path(blob), oldest)

    def _remove_files(self, keys: set[str], gone: list[Path]) -> PruneReport:
        """Blobs first: that needs no room on a full disk."""
        blobs = [Digest(key) for key in keys if key.startswith("sha256:")]
        sizes = [self._content.remove(blob) for blob in blobs]
        moved, freed = self._snapshots.detach(keys)
        gone.extend(moved)
        return PruneReport(sum(1 for size in sizes if size), len(moved), sum(sizes) + freed)

    def _delete(self, paths: Collection[Path]) -> None:
        for path in paths:
            self._snapshots.discard(path)


def _is_old(path: Path, oldest: float) -> bool:
    """What is not there is as old as can be."""
    try:
        return path.stat().st_mtime <= oldest
    except FileNotFoundError:
        return True
