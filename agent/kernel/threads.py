"""Work that must not share what threads of a process otherwise share: namespaces, working directory, root."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_apart(name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns in a thread of its own, that ends with it: what it enters or unshares there stays there.
    Raises what it raises."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
