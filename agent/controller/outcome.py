"""From an exception to what the loop does about it: the one place where errors are judged."""

from __future__ import annotations

from agent.errors import HoldfastError, NotFound
from agent.values import frozen

LONGEST_RETRY = 300.0
UNKNOWN_RETRY = 5.0
MISSING_RETRY = 30.0


@frozen
class Failure:
    """A failed call. ``retry_after`` in seconds; None when only a change of something else can help."""

    reason: str
    message: str
    retry_after: float | None


def compute_failure(error: BaseException, attempt: int) -> Failure:
    """Judge the ``attempt``-th failure in a row (from 1): deliberate errors say whether trying again can help, what
    is missing may come (an image is pushed), anything else is a fault of Holdfast and tried again; the wait doubles
    up to five minutes."""
    factor: float = 2 ** min(max(attempt - 1, 0), 12)
    if isinstance(error, NotFound):
        return Failure(error.reason, str(error), min(MISSING_RETRY * factor, LONGEST_RETRY))
    if isinstance(error, HoldfastError):
        wait = None if error.retry_after is None else min(error.retry_after * factor, LONGEST_RETRY)
        return Failure(error.reason, str(error), wait)
    if isinstance(error, OSError):
        return Failure("HostError", f"{type(error).__name__}: {error}", min(UNKNOWN_RETRY * factor, LONGEST_RETRY))
    return Failure("InternalError", f"{type(error).__name__}: {error}", min(UNKNOWN_RETRY * factor, LONGEST_RETRY))
