"""Trying something on the kernel in a child, so that nothing of it outlives the question."""

from __future__ import annotations

import os
from collections.abc import Callable

_LIMIT = 4096


def attempt(work: Callable[[], object]) -> str | None:
    """Run ``work`` in a forked child and return the error it ended with, or None when it went well."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        complaint = pipe.read(_LIMIT)
    _, status = os.waitpid(pid, 0)
    if complaint:
        return complaint.decode(errors="replace")
    return None if status == 0 else f"ended with status {status}"


def _child(work: Callable[[], object], writing: int) -> None:
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        os.write(writing, (text or type(error).__name__).encode()[:_LIMIT])
    finally:
        os._exit(code)
