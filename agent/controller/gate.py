"""The thread gate: the only way from the loop to blocking calls.

Two pools, so that long image work never keeps a container from being started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

QUICK_THREADS = 8
SLOW_THREADS = 3
CLOSE_SECONDS = 3.0


class Gate:
    """Bounded threads for engine calls. ``closing`` is set when long calls are to give up."""

    def __init__(self, quick: int = QUICK_THREADS, slow: int = SLOW_THREADS) -> None:
        self.closing = threading.Event()
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix="engine")
        self._slow = ThreadPoolExecutor(slow, thread_name_prefix="image")
        self._calls: set[Future[Any]] = set()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call of milliseconds (start, stop, exec, a record) in a thread."""
        return await self._submit(self._quick, partial(call, *args, **kwargs))

    async def run_slow(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that may take minutes (a pull, a build) in a thread; it has to watch ``closing``."""
        return await self._submit(self._slow, partial(call, *args, **kwargs))

    async def _submit(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        future = pool.submit(call)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(future)

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Take no more calls, drop those not begun, ask long ones to give up, and wait, but not for long, for the
        rest, so that whoever comes after finds nobody at work."""
        self.closing.set()
        for pool in (self._quick, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)
        left = [asyncio.wrap_future(future) for future in tuple(self._calls)]
        if left:
            await asyncio.wait(left, timeout=seconds)
        for waiter in left:
            if waiter.done() and not waiter.cancelled():
                waiter.exception()
