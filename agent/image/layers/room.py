"""How much memory all layers that are unpacked at once may take: what each needs at most, and all of them together.

What a layer needs is known from its first bytes, but for its tree; whose is larger than usual begins again with more
room. All of it is taken at once, and whoever has it waits for nobody but a registry, so nobody waits in a ring.

Who waits is served in the order of coming, so that a large share is not passed over for ever. A registry may be as slow
as it likes: a layer that comes over the network has room only while nobody waits for it who could use it better. It is
asked to give it back, is brought to the disk first, and then waits itself, for what takes as long as unpacking does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from agent.image.errors import ComesTooSlowly, ImagePullFailed
from agent.image.layers.decompress import read_window
from agent.image.limits import MAX_KEPT, MAX_WINDOW, UnpackLimits

TOGETHER = 54 << 20
"""Bytes for all unpacking processes. The agent's own part is some 8 MiB, and a little more for each further pull."""
SMALL = 6 << 20
"""Bytes for all layers that are unpacked within the agent. They are short, and wait for no large ones."""
PATIENCE = 5.0
"""Seconds that a share is left to a layer that waits for its registry while others wait for the share."""
_PROCESS = 11776 << 10
"""Of a process itself, and of what is on its way through it."""
_ZSTD = 1 << 20
"""Of its library and of buffers beside the window."""
_LEAST_KEPT = 3 << 20
USUAL = TOGETHER // 3
"""Bytes that are enough for most layers: three at once is what there is of them."""


class Share(NamedTuple):
    """What one layer may take: ``bytes`` in all, of which ``window`` is for its compression and ``kept`` for its
    tree."""

    bytes: int
    window: int
    kept: int

    def limit(self, limits: UnpackLimits) -> UnpackLimits:
        """The same limits, with this one's."""
        return limits._replace(window=self.window, kept=self.kept)


_HERE_WINDOW = 2 << 20
_HERE_KEPT = 512 << 10
_HERE = 768 << 10
"""Of a short layer that is not zstd."""
WHOLE = Share(_PROCESS + _ZSTD + MAX_WINDOW + MAX_KEPT, MAX_WINDOW, MAX_KEPT)


def compute_share(head: bytes) -> Share:
    """What a layer that begins with ``head`` needs of a process, unless its tree is large."""
    window = read_window(head)
    if window > MAX_WINDOW:
        return WHOLE  # refused as soon as it is looked at
    fixed = _PROCESS + (window + _ZSTD if window else 0)
    kept = max(USUAL - fixed, _LEAST_KEPT)
    return Share(fixed + kept, window, kept)


def compute_small_share(head: bytes) -> Share | None:
    """What a short layer needs within the agent, where there are no processes instead; None when that is too much."""
    window = read_window(head)
    if window > _HERE_WINDOW:
        return None
    return Share(_HERE + (window + _ZSTD if window else 0), _HERE_WINDOW, _HERE_KEPT)


class Lease:
    """A share that is held, since when, and whether it is being given back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.since = time.monotonic()
        self.returns = False


class Room:
    """Shares of ``size`` bytes that are taken, given back and waited for. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._condition = threading.Condition()
        self._waiting: list[Lease] = []
        self._held: set[Lease] = set()

    @contextmanager
    def held(self, share: Share, given_up: Callable[[], bool], *, wait: bool) -> Iterator[Lease]:
        """Have the share while the block runs. ``given_up`` is looked at after each ``wake``.

        Raises ImagePullFailed when it is given up, and without ``wait`` ComesTooSlowly when others are first.
        """
        lease = Lease(share.bytes)
        with self._condition:
            self._waiting.append(lease)
            try:
                while not given_up() and (self._waiting[0] is not lease or lease.size > self._free):
                    if not wait:
                        raise ComesTooSlowly("others unpack meanwhile")
                    self._condition.wait()
                if given_up():
                    raise ImagePullFailed("the pull was given up")
                self._free -= lease.size
                self._held.add(lease)
            finally:
                self._waiting.remove(lease)
                self._condition.notify_all()
        lease.since = time.monotonic()
        try:
            yield lease
        finally:
            with self._condition:
                self._free += lease.size
                self._held.discard(lease)
                self._condition.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether they are given up."""
        with self._condition:
            self._condition.notify_all()

    def wants_back(self, lease: Lease) -> bool:
        """Whether it should be given back, for the one who has waited longest; no more of them than that one needs."""
        with self._condition:
            if not self._waiting or lease.returns:
                return lease.returns
            coming = self._free + sum(other.size for other in self._held if other.returns)
            lease.returns = coming < self._waiting[0].size
            return lease.returns

    def watched(self, source: Generator[bytes, None, None], lease: Lease) -> Generator[bytes, None, None]:
        """What comes over the network while the lease lasts. Raises ComesTooSlowly when it is wanted back and more
        than half of its time went by without anything to do."""
        idle = 0.0
        with closing(source):
            while True:
                before = time.monotonic()
                chunk = next(source, None)
                now = time.monotonic()
                idle += now - before
                if chunk is None:
                    return
                held = now - lease.since
                if held > PATIENCE and idle > held / 2 and self.wants_back(lease):
                    raise ComesTooSlowly("others wait for the room it takes")
                yield chunk
