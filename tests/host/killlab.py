"""Work in a process of its own that is killed at one of its steps, as kill -9 or the OOM killer would."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

TRACED = "agent/image"


def count_steps(work: Callable[[], object], end: int = 0) -> int:
    """Do ``work`` in a child that is killed at step ``end``; the number of its steps when it was not.

    A step is a line of the image store's code, in whatever thread.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(work, end, writing)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as told:
        counted = told.read()
    assert counted or (end and os.WTERMSIG(status) == signal.SIGKILL), f"status {status}"
    return int(counted or 0)


def _work(work: Callable[[], object], end: int, writing: int) -> None:
    seen = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal seen
        if TRACED not in frame.f_code.co_filename:
            return None
        seen += 1
        if seen == end:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        threading.settrace(trace)
        sys.settrace(trace)
        work()
        sys.settrace(None)
        os.write(writing, str(seen).encode())
    finally:
        os._exit(0)


def killed_at(work: Callable[[int], Callable[[], object]], places: int) -> Iterator[int]:
    """Yield each of ``places`` numbers after ``work(number)`` was killed, the kills spread over all steps.

    ``work`` prepares what belongs to its number, 0 for the run that is not killed, and returns what to do.
    """
    steps = count_steps(work(0))
    for number in range(1, places + 1):
        count_steps(work(number), max(1, steps * number // (places + 1)))
        yield number
