"""When images go by themselves: as soon as the data root is fuller than it may be; and what is told of that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.engine.collector import MIN_AGE, ImageCollection, PruneOutcome
from agent.errors import HoldfastError
from agent.image.store import ImageStore
from agent.telemetry.logging import get_logger
from agent.values import frozen

CHECK_SECONDS = 300.0
FORGET_SECONDS = 3600.0
URGENT_PERCENT = 10.0


@frozen
class Watermarks:
    """How full the data root's file system may get: at ``high`` images go until it is below ``low`` (percent).

    A ``high`` of 100 turns that off. What was used within ``min_age`` seconds stays.
    """

    high: float = 85.0
    low: float = 80.0
    min_age: float = MIN_AGE


@dataclass
class Tally:
    """What automatic collections have done since the agent started; ``short`` counts those that freed too little."""

    runs: int = 0
    short: int = 0
    freed: int = 0
    images: int = 0


class DiskWatch:
    """Thread-safe; ``relieve`` blocks. ``forget_unused`` is called now and then, to give up what only age makes
    useless."""

    def __init__(
        self,
        store: ImageStore,
        collection: ImageCollection,
        watermarks: Watermarks,
        forget_unused: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._collection = collection
        self._marks = watermarks
        self._forget_unused = forget_unused
        self._forgotten = time.monotonic()
        self._tell_of: Callable[[str, str], object] = lambda _reason, _message: None
        self._wake = threading.Event()
        self._closed = False
        self._short = False
        self._thread: threading.Thread | None = None
        self._log = get_logger("images")
        self.tally = Tally()

    def report_to(self, tell: Callable[[str, str], object]) -> None:
        """``tell`` is called with a reason and a message when images went by themselves, from any thread."""
        self._tell_of = tell

    def fill_level(self) -> float:
        """How full the data root's file system is, in percent, as df counts it."""
        found = os.statvfs(self._store.content.root)
        used = found.f_blocks - found.f_bfree
        return 100.0 * used / max(used + found.f_bavail, 1)

    def relieve(self, *, urgent: bool = False) -> PruneOutcome:
        """Above the high watermark remove what nobody needs until below the low one; when ``urgent``, in any case, and
        a tenth of the file system at least."""
        if not urgent and (self._marks.high >= 100 or self.fill_level() < self._marks.high):
            self._short = False
            return PruneOutcome()
        with self._collection.quiet():
            before = self.fill_level()
            goal = min(self._marks.low, before - URGENT_PERCENT) if urgent else self._marks.low
            outcome = self._collection.reclaim(self._marks.min_age, lambda: self.fill_level() < goal)
            self._tell(before, outcome)
            return outcome

    def _tell(self, before: float, outcome: PruneOutcome) -> None:
        after = self.fill_level()
        self.tally.runs += 1
        self.tally.freed += outcome.freed
        self.tally.images += len(outcome.images)
        levels = {"before": f"{before:.1f} %", "after": f"{after:.1f} %"}
        if outcome.freed:
            names = ", ".join(names[0] if names else image[7:19] for image, names in outcome.images[:10]) or "leftovers"
            self._log.info("removed what nobody needs", images=len(outcome.images), freed_bytes=outcome.freed, **levels)
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
        self._collection.ballast.take()
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
                self._forget()
                self.relieve()
            except (HoldfastError, OSError) as error:
                self._log.warning("images could not be removed; will try again", error=str(error))

    def _forget(self) -> None:
        if time.monotonic() - self._forgotten >= FORGET_SECONDS:
            self._forgotten = time.monotonic()
            self._forget_unused()

    def close(self) -> None:
        """Stop watching; waits for a collection under way."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._store.flush_uses()
