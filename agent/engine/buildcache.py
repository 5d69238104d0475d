"""What builds keep for the next ones, and taking it away: layers of steps, cache mounts, fetched repositories.

What a build under way uses stays: no layer that was made or found since the oldest of them began, no cache that is
mounted, no repository that is open.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from agent.builder.cache import CachedLayer
from agent.engine.collector import ImageCollection
from agent.engine.diskusage import measure_tree
from agent.engine.parts import Parts
from agent.oci.digest import parse_digest
from agent.values import frozen


@frozen
class CacheWish:
    """What may go: layers that no image has, with ``everything`` all layers and the caches of RUN
    --mount=type=cache too. Nothing that was used within ``min_age`` seconds; and of the rest the longest unused
    first, until no more than ``keep_bytes`` are left."""

    everything: bool = False
    min_age: float = 0.0
    keep_bytes: int = 0
    dry_run: bool = False


@frozen
class CacheOutcome:
    """What went, or would: counts of layers and of cache mounts, and bytes."""

    layers: int = 0
    mounts: int = 0
    freed: int = 0


@frozen
class _Item:
    """A layer with the keys it is remembered by, or a cache mount with its name."""

    used: float
    size: int
    keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    mount: str = ""


class BuildCache:
    """Thread-safe; calls block."""

    def __init__(self, parts: Parts, collection: ImageCollection) -> None:
        self._parts = parts
        self._collection = collection

    def prune(self, wish: CacheWish) -> CacheOutcome:
        """Remove what is asked for and no build under way needs. Raises InsufficientStorage."""
        with self._collection.quiet() as since:
            chosen = self._choose(wish, min(time.time() - wish.min_age, since))
            layers = [item for item in chosen if not item.mount]
            mounts = [item for item in chosen if item.mount]
            if wish.dry_run:
                return CacheOutcome(len(layers), len(mounts), sum(item.size for item in chosen))
            keys = [key for item in layers for key in item.keys]
            self._parts.builder.drop_cached(keys, [item.mount for item in mounts])
            report = self._collection.sweep_layers([file for item in layers for file in item.files])
        return CacheOutcome(len(layers), len(mounts), report.freed + sum(item.size for item in mounts))

    def _choose(self, wish: CacheWish, limit: float) -> list[_Item]:
        """The longest unused first. What images name is theirs, and takes no room here."""
        named = {str(key) for entry in self._parts.images.all() for key in (*entry.blobs, *entry.chains)}
        items = [*self._collect_layers(named), *self._collect_mounts()]
        left = sum(item.size for item in items)
        chosen = []
        for item in sorted(items, key=lambda one: one.used):
            if item.used > limit or (wish.keep_bytes and left <= wish.keep_bytes):
                break
            if wish.everything or not (item.mount or named.issuperset(item.files)):
                chosen.append(item)
                left -= item.size
        return chosen

    def _collect_layers(self, named: Collection[str]) -> list[_Item]:
        found: dict[tuple[str, ...], list[CachedLayer]] = {}
        for one in self._parts.builder.cached_layers():
            found.setdefault((one.layer.chain_id, one.layer.descriptor.digest), []).append(one)
        return [
            _Item(max(one.used for one in same), self._measure(files, named), tuple(one.key for one in same), files)
            for files, same in found.items()
        ]

    def _measure(self, files: tuple[str, ...], named: Collection[str]) -> int:
        chain, blob = files
        store = self._parts.images
        snapshot = store.snapshots.find(chain) if chain not in named else None
        packed = store.content.size(parse_digest(blob)) if blob not in named else None
        return (snapshot.size if snapshot is not None else 0) + (packed or 0)

    def _collect_mounts(self) -> list[_Item]:
        caches = self._parts.builder.cached_mounts()
        return [_Item(one.used, measure_tree(one.path).size, mount=one.name) for one in caches]
