"""Keeps the image store small enough: what may go, when it goes, and what is told of it.

Needed, and so never touched: images of containers (whatever their state), of apps in force, what the build cache
keeps, what is being pulled, started or held, and while a build is under way all that was used since it began. What a
build will name is not known: for its first hour no image with a name goes, unless somebody removes it by hand.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.engine.ballast import Ballast
from agent.engine.imagefacts import familiar_names
from agent.errors import HoldfastError
from agent.image.collect import NEVER, Keep, PruneReport
from agent.image.records import ImageEntry
from agent.image.store import ImageStore
from agent.telemetry.logging import get_logger
from agent.values import frozen

CHECK_SECONDS = 300.0
MIN_AGE = 600.0
SHELTER_SECONDS = 3600.0
URGENT_PERCENT = 10.0


@frozen
class Watermarks:
    """How full the data root's file system may get: at ``high`` images go until it is below ``low`` (percent).

    A ``high`` of 100 turns that off. What was used within ``min_age`` seconds stays.
    """

    high: float = 85.0
    low: float = 80.0
    min_age: float = MIN_AGE


@frozen
class PruneOutcome:
    """What was removed: images as id and names, counts of blobs and snapshots, ``freed`` bytes."""

    images: tuple[tuple[str, tuple[str, ...]], ...] = ()
    blobs: int = 0
    snapshots: int = 0
    freed: int = 0


@dataclass
class Tally:
    """What automatic collections have done since the agent started; ``short`` counts those that freed too little."""

    runs: int = 0
    short: int = 0
    freed: int = 0
    images: int = 0


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
    """Thread-safe; calls block. One collection at a time. ``in_use`` gives the image ids of all containers."""

    def __init__(
        self,
        store: ImageStore,
        in_use: Callable[[], Collection[str]],
        cached: Callable[[], Collection[str]],
        watermarks: Watermarks,
    ) -> None:
        self._store = store
        self._in_use = in_use
        self._cached = cached
        self._marks = watermarks
        self._needed: Callable[[], Collection[str] | None] = lambda: None
        self._tell_of: Callable[[str, str], object] = lambda _reason, _message: None
        self._ballast = Ballast(store.content.root / "ballast")
        self._collecting = threading.Lock()
        self._lock = threading.Lock()
        self._builds: list[float] = []
        self._wake = threading.Event()
        self._closed = False
        self._short = False
        self._thread: threading.Thread | None = None
        self._log = get_logger("images")
        self.tally = Tally()

    # who needs what

    def ask(self, needed: Callable[[], Collection[str] | None]) -> None:
        """``needed`` gives the references and ids of the images that apps need, from any thread; None while nobody
        knows. Until then no image goes by itself."""
        self._needed = needed

    def report_to(self, tell: Callable[[str, str], object]) -> None:
        """``tell`` is called with a reason and a message when images went by themselves, from any thread."""
        self._tell_of = tell

    @contextmanager
    def building(self) -> Iterator[None]:
        """A build is under way: all that is used from now on stays. Waits for a collection to end."""
        with self._collecting, self._lock:
            begun = time.time()
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
        with self._collecting, self._ballast.lent():
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
        with self._collecting, self._ballast.lent():
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
            with self._ballast.lent():
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

    # when it goes by itself

    def fill_level(self) -> float:
        """How full the data root's file system is, in percent, as df counts it."""
        found = os.statvfs(self._store.content.root)
        used = found.f_blocks - found.f_bfree
        return 100.0 * used / max(used + found.f_bavail, 1)

    def relieve(self, *, urgent: bool = False) -> PruneOutcome:
        """Above the high watermark remove what nobody needs until below the low one; when ``urgent``, in any case, and
        a tenth of the file system at least.

        Images that were made here and have a name stay: no registry could give them back.
        """
        if not urgent and (self._marks.high >= 100 or self.fill_level() < self._marks.high):
            self._short = False
            return PruneOutcome()
        with self._collecting, self._ballast.lent():
            before, total = self.fill_level(), _Sum()
            goal = min(self._marks.low, before - URGENT_PERCENT) if urgent else self._marks.low
            cached = self._cached()
            total.add(self._sweep(cached))
            for entry in self._candidates(cached, self._marks.min_age):
                if self.fill_level() < goal:
                    break
                if not entry.local or not entry.names:
                    self._remove(entry, cached, total)
            self._tell(before, total)
            return total.outcome()

    def _tell(self, before: float, total: _Sum) -> None:
        after = self.fill_level()
        self.tally.runs += 1
        self.tally.freed += total.freed
        self.tally.images += len(total.images)
        levels = {"before": f"{before:.1f} %", "after": f"{after:.1f} %"}
        if total.freed:
            names = ", ".join(names[0] if names else image[7:19] for image, names in total.images[:10]) or "leftovers"
            self._log.info("removed what nobody needs", images=len(total.images), freed_bytes=total.freed, **levels)
            text = f"removed {names}: nobody needs it, and the disk was {before:.0f} % full; now {after:.0f} %"
            self._tell_of("ImagesCollected", text)
        if after < self._marks.high:
            self._short = False
            return
        self.tally.short += 1
        if not self._short:
            self._short = True
            hint = "holdfast system df shows what takes the room; holdfast image prune --all"
            self._log.warning("the data root stays nearly full: nothing more may be removed", hint=hint, **levels)
            self._tell_of("DiskNearlyFull", f"the data root is {after:.0f} % full, and no more images may be removed")

    def check_soon(self) -> None:
        """Something was written: look at the watermark now, in the background."""
        self._wake.set()

    def start(self) -> None:
        """Begin to watch the watermark."""
        self._ballast.take()
        self._thread = threading.Thread(target=self._watch, name="image-collector", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait(CHECK_SECONDS)
            self._wake.clear()
            if self._closed:
                return
            try:
                self._store.flush_uses()
                self.relieve()
            except (HoldfastError, OSError) as error:
                self._log.warning("images could not be removed; will try again", error=str(error))

    def close(self) -> None:
        """Stop watching; waits for a collection under way."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._store.flush_uses()


def _told(entry: ImageEntry) -> tuple[str, tuple[str, ...]]:
    return str(entry.id), familiar_names(entry)
