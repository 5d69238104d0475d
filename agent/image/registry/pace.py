"""Connections that only trickle (slow loris) are cut; what came is kept, and the rest is asked for again."""

from __future__ import annotations

import time

from agent.image.config import RegistryConfig
from agent.image.errors import ImagePullFailed


class Pace:
    """Watches one transfer: at least ``slow_bytes`` in each ``slow_seconds``, and no more than ``longest`` seconds."""

    def __init__(self, config: RegistryConfig, longest: float = float("inf")) -> None:
        self._config = config
        self._since = time.monotonic()
        self._end = self._since + longest
        self._bytes = 0

    def count(self, size: int) -> None:
        """Note ``size`` more bytes. Raises ImagePullFailed when too few came lately."""
        self._bytes += size
        now = time.monotonic()
        if now > self._end:
            raise ImagePullFailed("the registry takes too long to send a short document")
        if now - self._since < self._config.slow_seconds:
            return
        if self._bytes < self._config.slow_bytes:
            raise ImagePullFailed(f"the registry sent only {self._bytes} bytes in {now - self._since:.0f} s")
        self._since, self._bytes = now, 0
