"""Network work in a thread of its own: who gives up does not wait for a registry that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from agent.image.progress import PullTracker

INTERVAL = 0.25
"""Seconds between two looks at the caller, and between two reports to it."""

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


def await_all(futures: Iterable[Future[Any]], tracker: PullTracker, stage: str) -> None:
    """Wait for all of ``futures`` and report ``stage`` on the way.

    Raises the first error among them, and PullCancelled when the caller cancels; others may be at work still then.
    """
    pending = set(futures)
    while pending:
        done, pending = wait(pending, INTERVAL, FIRST_EXCEPTION)
        for future in done:
            future.result()
        tracker.check()
        tracker.report(stage)
