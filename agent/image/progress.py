"""How far a pull or push is: counted by its threads, reported by its caller's thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum

from agent.image.errors import PullCancelled
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest
from agent.values import frozen

WINDOW = 5.0
"""Seconds over which rates are measured."""


class LayerState(StrEnum):
    """``present``: it was there already, nothing had to be transferred."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    PRESENT = "present"


@frozen
class LayerProgress:
    """One layer: its packed size and how much of it is done in bytes, bytes a second, seconds left if known."""

    digest: Digest
    state: LayerState
    bytes_total: int
    bytes_done: int
    rate: float
    eta: float | None


@frozen
class PullProgress:
    """One report. ``phase`` is resolving, pulling, pushing or done; ``rate`` is bytes a second of late, ``eta`` the
    seconds left at that rate, None when nobody can tell.

    Bytes are compressed ones; those already there count as done from the start. ``bytes_fetched`` came (or went)
    over the network.
    """

    reference: str
    phase: str
    layers_total: int = 0
    layers_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    rate: float = 0.0
    bytes_fetched: int = 0
    eta: float | None = None
    layers: tuple[LayerProgress, ...] = ()


ProgressCallback = Callable[[PullProgress], None]


class PullTracker:
    """Counts the progress of one pull or push (``work`` says which) and carries its cancellation. Thread-safe."""

    def __init__(
        self,
        reference: str,
        callback: ProgressCallback | None,
        cancel: threading.Event | None,
        work: str = "pull",
    ) -> None:
        self.reference = reference
        self.meters: tuple[LayerMeter, ...] = ()
        self._work = work
        self._callback = callback
        self._cancel = cancel or threading.Event()
        self._stop = threading.Event()
        self._owner = threading.current_thread()
        self._past: deque[tuple[float, tuple[int, ...]]] = deque()

    def abandon(self) -> None:
        """Make the work's other threads stop: the caller gave up, or one of them failed."""
        self._stop.set()

    def check(self) -> None:
        """Raises PullCancelled when the work is to end."""
        if self._cancel.is_set() or self._stop.is_set():
            raise PullCancelled(f"the {self._work} of {self.reference} was cancelled")

    def pause(self, seconds: float) -> None:
        """Wait before a retry. Raises PullCancelled at once when the work is to end."""
        event = self._cancel if threading.current_thread() is self._owner else self._stop
        event.wait(seconds)
        self.check()

    def expect(self, layers: Sequence[Descriptor]) -> tuple[LayerMeter, ...]:
        """Say what there is to do in all; returns what each layer is counted with."""
        self.meters = tuple(LayerMeter(self, layer) for layer in layers)
        self._past.clear()
        self._past.append((time.monotonic(), tuple(0 for _ in self.meters)))
        return self.meters

    def report(self, phase: str) -> None:
        """Call back. Only the work's own thread calls this, so that reports come in order."""
        if self._callback is None:
            return
        meters = self.meters
        rates = self._measure([meter.done for meter in meters])
        layers = tuple(meter.describe(rate) for meter, rate in zip(meters, rates, strict=True))
        total, done = sum(layer.bytes_total for layer in layers), sum(layer.bytes_done for layer in layers)
        rate = sum(rates)
        self._callback(
            PullProgress(
                self.reference,
                phase,
                layers_total=len(layers),
                layers_done=sum(layer.state in (LayerState.DONE, LayerState.PRESENT) for layer in layers),
                bytes_total=total,
                bytes_done=done,
                rate=rate,
                bytes_fetched=sum(meter.fetched for meter in meters),
                eta=compute_eta(total - done, rate),
                layers=layers,
            )
        )

    def _measure(self, done: Sequence[int]) -> list[float]:
        """Bytes a second of each layer, over the last seconds."""
        now = time.monotonic()
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW:
            self._past.popleft()
        then, before = self._past[0] if self._past else (now, tuple(done))
        self._past.append((now, tuple(done)))
        span = now - then
        return [max(new - old, 0) / span if span > 0 else 0.0 for new, old in zip(done, before, strict=True)]


class LayerMeter:
    """Counts one layer. One thread at a time counts."""

    def __init__(self, tracker: PullTracker, layer: Descriptor) -> None:
        self._tracker = tracker
        self._layer = layer
        self._state = LayerState.WAITING
        self.done = 0
        self.fetched = 0

    def check(self) -> None:
        """Raises PullCancelled when the work is to end."""
        self._tracker.check()

    def advance(self, size: int, *, fetched: bool = True) -> None:
        """Count ``size`` more bytes as done; ``fetched`` when they went over the network."""
        self._state = LayerState.RUNNING
        self.done += size
        self.fetched += size if fetched else 0

    def restart(self, done: int = 0) -> None:
        """What was done beyond ``done`` bytes has to be done again."""
        self.done = done

    def finish(self, *, present: bool = False) -> None:
        """The layer is done; ``present``: it was there already."""
        self.done = self._layer.size
        self._state = LayerState.PRESENT if present else LayerState.DONE

    def describe(self, rate: float) -> LayerProgress:
        """How far it is."""
        size, state = self._layer.size, self._state
        done = min(self.done, size)
        running = state is LayerState.RUNNING
        eta = compute_eta(size - done, rate) if running else None
        return LayerProgress(self._layer.digest, state, size, done, rate if running else 0.0, eta)


def compute_eta(left: int, rate: float) -> float | None:
    """Seconds for ``left`` bytes at ``rate``; 0 for none, None while nothing moves."""
    if left <= 0:
        return 0.0
    return round(left / rate, 1) if rate >= 1.0 else None
