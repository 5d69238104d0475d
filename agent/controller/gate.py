"""The thread gate: the only way from the loop to blocking calls.

Two pools, so that long image work never keeps a container from being started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

QUICK_THREADS = 8
SLOW_THREADS = 3


class Gate:
    """Bounded threads for engine calls. ``closing`` is set when long calls are to give up."""

    def __init__(self, quick: int = QUICK_THREADS, slow: int = SLOW_THREADS) -> None:
        self.closing = threading.Event()
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix="engine")
        self._slow = ThreadPoolExecutor(slow, thread_name_prefix="image")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call of milliseconds (start, stop, exec, a record) in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, partial(call, *args, **kwargs))

    async def run_slow(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that may take minutes (a pull, a build) in a thread; it has to watch ``closing``."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, partial(call, *args, **kwargs))

    def close(self) -> None:
        """Take no more calls, drop those not begun, and ask long ones to give up; waits for nothing."""
        self.closing.set()
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)
