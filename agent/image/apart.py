"""Network work in a thread of its own: who gives up does not wait for a registry that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from agent.image.progress import PullTracker

INTERVAL = 0.25
T = TypeVar("T")


def run_apart(work: Callable[[], T], tracker: PullTracker, abort: Callable[[], None]) -> T:
    """The result of ``work``. ``abort`` breaks its connections when the caller cancels.

    Raises what ``work`` raises, and PullCancelled.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="image-apart")
    try:
        future = pool.submit(work)
        while not future.done():
            tracker.check()
            wait([future], INTERVAL)
        return future.result()
    except BaseException:
        tracker.abandon()
        abort()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
