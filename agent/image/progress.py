"""How far a pull is: counted by its threads, reported by its caller's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.image.errors import PullCancelled


@dataclass(frozen=True)
class PullProgress:
    """One report. ``phase`` is resolving, pulling or done; ``rate`` is bytes a second since the last report.

    Bytes are compressed ones; those already local count as done from the start. ``bytes_fetched`` came over the
    network.
    """

    reference: str
    phase: str
    layers_total: int = 0
    layers_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    rate: float = 0.0
    bytes_fetched: int = 0


ProgressCallback = Callable[[PullProgress], None]


class PullTracker:
    """Counts one pull's progress and carries its cancellation. Thread-safe."""

    def __init__(self, reference: str, callback: ProgressCallback | None, cancel: threading.Event | None) -> None:
        self.reference = reference
        self.fetched = 0
        self._callback = callback
        self._cancel = cancel or threading.Event()
        self._stop = threading.Event()
        self._owner = threading.current_thread()
        self._lock = threading.Lock()
        self._layers = [0, 0]
        self._bytes = [0, 0]
        self._last = (time.monotonic(), 0)

    def abandon(self) -> None:
        """Make the pull's other threads stop: the caller gave up, or one of them failed."""
        self._stop.set()

    def check(self) -> None:
        """Raises PullCancelled when the pull is to end."""
        if self._cancel.is_set() or self._stop.is_set():
            raise PullCancelled(f"the pull of {self.reference} was cancelled")

    def pause(self, seconds: float) -> None:
        """Wait before a retry. Raises PullCancelled at once when the pull is to end."""
        event = self._cancel if threading.current_thread() is self._owner else self._stop
        event.wait(seconds)
        self.check()

    def expect(self, layers: int, size: int) -> None:
        """Say how much there is to do in all."""
        self._layers[1], self._bytes[1] = layers, size
        self._last = (time.monotonic(), 0)

    def advance(self, size: int, *, fetched: bool = True) -> None:
        """Count ``size`` more bytes as done; ``fetched`` when they came over the network."""
        with self._lock:
            self._bytes[0] += size
            if fetched:
                self.fetched += size

    def finish_layer(self) -> None:
        """Count one more layer as done."""
        with self._lock:
            self._layers[0] += 1

    def report(self, phase: str) -> None:
        """Call back. Only the pull's own thread calls this, so that reports come in order."""
        if self._callback is None:
            return
        now, (before, counted) = time.monotonic(), self._last
        done = self._bytes[0]
        rate = (done - counted) / (now - before) if now > before else 0.0
        self._last = (now, done)
        self._callback(
            PullProgress(
                self.reference,
                phase,
                layers_total=self._layers[1],
                layers_done=self._layers[0],
                bytes_total=self._bytes[1],
                bytes_done=min(done, self._bytes[1]),
                rate=rate,
                bytes_fetched=self.fetched,
            )
        )
