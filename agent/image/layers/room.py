"""How much memory the unpacking of one image's layers may take: what each layer needs at most, and all together.

What a layer needs is known from its first bytes, but for its tree; whose is larger than usual begins again with more
room. All of it is taken at once and before anything else is waited for, so nobody waits for each other in a ring.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from agent.image.errors import ImagePullFailed
from agent.image.layers.decompress import read_window
from agent.image.limits import MAX_KEPT, MAX_WINDOW, UnpackLimits

TOGETHER = 54 << 20
"""Bytes for all unpacking processes of a pull. The agent's own part of it is some 7 MiB."""
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


HERE = Share(0, 8 << 20, 512 << 10)
"""Within the agent, where there are no processes instead."""
WHOLE = Share(_PROCESS + _ZSTD + MAX_WINDOW + MAX_KEPT, MAX_WINDOW, MAX_KEPT)


def compute_share(head: bytes) -> Share:
    """What a layer that begins with ``head`` needs, unless its tree is large."""
    window = read_window(head)
    if window > MAX_WINDOW:
        return WHOLE  # refused as soon as it is looked at
    fixed = _PROCESS + (window + _ZSTD if window else 0)
    kept = max(USUAL - fixed, _LEAST_KEPT)
    return Share(fixed + kept, window, kept)


class Room:
    """Shares that are taken, given back and waited for. Thread-safe."""

    def __init__(self) -> None:
        self._free = TOGETHER
        self._condition = threading.Condition()
        self._closed = False

    @contextmanager
    def held(self, share: Share) -> Iterator[None]:
        """Have the share while the block runs. Raises ImagePullFailed after ``close``."""
        with self._condition:
            while share.bytes > self._free and not self._closed:
                self._condition.wait()
            if self._closed:
                raise ImagePullFailed("the pull was given up")
            self._free -= share.bytes
        try:
            yield
        finally:
            with self._condition:
                self._free += share.bytes
                self._condition.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
