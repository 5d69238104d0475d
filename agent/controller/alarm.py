"""One timer of the loop, that is set anew again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LONGEST_SECONDS = 3600.0


class Alarm:
    """Lives on the loop; calls ``ring`` once for each time it was set, unless it was set anew before."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring after ``seconds``, in an hour at the latest."""
        self.cancel()
        wait = min(max(seconds, 0.001), LONGEST_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
