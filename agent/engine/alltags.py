"""All tags of a repository, pulled or pushed one after the other: what fails is told, and the others go on.

One after the other, because what tags share is then brought once, and because one image keeps the line busy already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from agent.errors import HoldfastError, Waiting
from agent.image.errors import PullCancelled, RegistryUnauthorized
from agent.values import frozen

PATIENCE = 3
"""After so many tags in a row for which the registry, or the disk, failed, the rest is not tried."""


@frozen
class TagOutcome:
    """What became of one tag: what its pull or push gave, or its error."""

    tag: str
    result: Any = None
    error: HoldfastError | None = None


@frozen
class AllTagsReport:
    """What became of all: numbers of tags. ``left_out`` are those in the registry that are no images."""

    repository: str
    done: int
    failed: int
    untried: int
    left_out: int = 0


class AllTags:
    """The tags of one repository; used once. ``told`` gets each TagOutcome."""

    def __init__(
        self, repository: str, told: Callable[[Any], None] | None, cancel: threading.Event | None, left_out: int = 0
    ) -> None:
        self._repository = repository
        self._told = told or (lambda _: None)
        self._cancel = cancel or threading.Event()
        self._left_out = left_out

    def run(self, tags: Sequence[str], work: Callable[[str], Any]) -> AllTagsReport:
        """Call ``work`` with each tag. Raises PullCancelled."""
        done = failed = in_a_row = 0
        for tag in tags:
            if self._cancel.is_set():
                raise PullCancelled(f"the work on all tags of {self._repository} was cancelled")
            try:
                outcome = TagOutcome(tag, work(tag))
                done, in_a_row = done + 1, 0
            except PullCancelled:
                raise
            except HoldfastError as error:
                outcome = TagOutcome(tag, error=error)
                failed, in_a_row = failed + 1, in_a_row + 1 if _concerns_all(error) else 0
            self._told(outcome)
            if in_a_row == PATIENCE:
                break
        return AllTagsReport(self._repository, done, failed, len(tags) - done - failed, self._left_out)


def _concerns_all(error: HoldfastError) -> bool:
    return isinstance(error, Waiting | RegistryUnauthorized)
