"""Which images may go, and their removal with all files that nobody else needs.

Needed, and so never touched: images of containers (whatever their state), of apps in force, what the build cache
keeps, what is being pulled, started or held, and while a build is under way all that was used since it began. What a
build will name is not known: for its first hour no image with a name goes, unless somebody removes it by hand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.engine.ballast import Ballast
from agent.engine.imagefacts import familiar_names
from agent.errors import HoldfastError
from agent.image.collect import NEVER, Keep, PruneReport
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.values import frozen

MIN_AGE = 600.0
TICK = 0.02
"""Seconds by which the time that a file gets may lag behind: file systems ask the clock of the last tick."""
SHELTER_SECONDS = 3600.0


@frozen
class PruneOutcome:
    """What was removed: images as id and names, counts of blobs and snapshots, ``freed`` bytes."""

    images: tuple[tuple[str, tuple[str, ...]], ...] = ()
    blobs: int = 0
    snapshots: int = 0
    freed: int = 0


@dataclass
class _Sum:
    images: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    blobs: int = 0
    snapshots: int = 0
    freed: int = 0

    def add(self, report: PruneReport) -> None:
        self.blobs += report.blobs
        self.snapshots += report.snapshots
        self.freed += report.freed

    def outcome(self) -> PruneOutcome:
        return PruneOutcome(tuple(self.images), self.blobs, self.snapshots, self.freed)


class ImageCollection:
    """Thread-safe; calls block. One collection at a time. ``in_use`` gives the image ids of all containers, ``cached``
    what the build cache keeps. ``ballast`` is given up meanwhile, for removing needs room too."""

    def __init__(
        self,
        store: ImageStore,
        in_use: Callable[[], Collection[str]],
        cached: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._in_use = in_use
        self._cached = cached
        self._needed: Callable[[], Collection[str] | None] = lambda: None
        self.ballast = Ballast(store.content.root / "ballast")
        self._collecting = threading.Lock()
        self._lock = threading.Lock()
        self._builds: list[float] = []

    # who needs what

    def ask(self, needed: Callable[[], Collection[str] | None]) -> None:
        """``needed`` gives the references and ids of the images that apps need, from any thread; None while nobody
        knows. Until then no image goes by itself."""
        self._needed = needed

    @contextmanager
    def building(self) -> Iterator[None]:
        """A build is under way: all that is used from now on stays. Waits for a collection to end."""
        with self._collecting, self._lock:
            begun = time.time() - TICK
            self._builds.append(begun)
        try:
            yield
        finally:
            with self._lock:
                self._builds.remove(begun)

    def needed_ids(self) -> frozenset[str] | None:
        """The ids of the images of containers and apps; None while it is not known what apps need."""
        wanted = self._needed()
        if wanted is None:
            return None
        return frozenset(self._in_use()) | self._resolve(wanted)

    def _resolve(self, wanted: Collection[str]) -> frozenset[str]:
        found = set()
        for name in wanted:
            try:
                entry = self._store.find(name)
            except HoldfastError:
                continue
            if entry is not None:
                found.add(str(entry.id))
        return frozenset(found)

    def _keep(self, cached: Collection[str]) -> Keep:
        wanted = self._resolve(self._needed() or ())
        with self._lock:
            since = min(self._builds, default=NEVER)
        return Keep(frozenset(self._in_use()) | wanted, cached, since)

    # what goes

    def prune(self, *, named: bool = False, min_age: float = 0.0, dry_run: bool = False) -> PruneOutcome:
        """Remove the images that nobody needs and that have no name, or with ``named`` all that nobody needs.

        Only those unused for ``min_age`` seconds; then what no image names any more. ``dry_run`` removes nothing and
        tells the images that would go. Raises InsufficientStorage.
        """
        with self._collecting, self.ballast.lent():
            cached = self._cached()
            chosen = [entry for entry in self._candidates(cached, min_age) if named or not entry.names]
            if dry_run:
                return PruneOutcome(tuple(map(_told, chosen)), freed=sum(entry.size for entry in chosen))
            total = _Sum()
            for entry in chosen:
                self._remove(entry, cached, total)
            total.add(self._sweep(cached))
            return total.outcome()

    @contextmanager
    def quiet(self) -> Iterator[float]:
        """While no build begins and no collection goes on; when the oldest build under way began, else infinity."""
        with self._collecting, self.ballast.lent():
            with self._lock:
                since = min(self._builds, default=NEVER)
            yield since

    def sweep_layers(self, keys: Collection[str]) -> PruneReport:
        """Remove those of these digests and chain IDs that nobody needs, now; to be called while it is ``quiet``."""
        keep = self._keep(self._cached())
        return self._store.prune(keep.keys, min_age=0.0, since=keep.since, only=keys)

    def remove(self, entry: ImageEntry) -> PruneOutcome | None:
        """Remove one image with its files, now; None when it is needed or being used."""
        total = _Sum()
        if self._needed() is not None:
            with self.ballast.lent():
                self._remove(entry, self._cached(), total)
        return total.outcome() if total.images else None

    def _candidates(self, cached: Collection[str], min_age: float) -> tuple[ImageEntry, ...]:
        if self._needed() is None:
            return ()
        with self._lock:
            sheltered = any(time.time() - begun < SHELTER_SECONDS for begun in self._builds)
        found = self._store.unneeded(self._keep(cached), min_age)
        return tuple(entry for entry in found if not (sheltered and entry.names))

    def _remove(self, entry: ImageEntry, cached: Collection[str], total: _Sum) -> None:
        report = self._store.remove_unneeded(entry.id, lambda: self._keep(cached))
        if report is not None:
            total.images.append(_told(entry))
            total.add(report)

    def _sweep(self, cached: Collection[str]) -> PruneReport:
        keep = self._keep(cached)
        return self._store.prune(cached, min_age=MIN_AGE, since=keep.since)

    def reclaim(self, min_age: float, enough: Callable[[], bool]) -> PruneOutcome:
        """Remove leftovers, then what nobody needs and nobody used for ``min_age`` seconds, until there is ``enough``
        room; to be called while it is ``quiet``.

        Images that were made here and have a name stay: no registry could give them back.
        """
        cached, total = self._cached(), _Sum()
        total.add(self._sweep(cached))
        for entry in self._candidates(cached, min_age):
            if enough():
                break
            if not entry.local or not entry.names:
                self._remove(entry, cached, total)
        return total.outcome()


def _told(entry: ImageEntry) -> tuple[str, tuple[str, ...]]:
    return str(entry.id), familiar_names(entry)
