"""What happened in one slot of a service: enough to decide when, and whether, it is filled again.

First restart at once, then 100 ms doubling to 5 minutes, with jitter taken from the slot's name so that equal
inputs give equal delays; forgotten once a container was up (and, with a healthcheck, healthy) for 10 seconds.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from agent.values import frozen

FIRST_DELAY = 0.1
LONGEST_DELAY = 300.0
STEADY_SECONDS = 10.0
JITTER = 0.25
CLOCK_SLACK = 1.0
COUNTED_LIMIT = 16
FLAPPING_FAILURES = 2


@frozen
class ContainerExit:
    """How a container ended: ``code`` None when unknown or killed by ``signal``. ``at`` is epoch seconds."""

    code: int | None
    signal: int | None = None
    oom: bool = False
    at: float = 0.0

    def __str__(self) -> str:
        if self.oom:
            return "was killed for want of memory"
        if self.signal is not None:
            return f"was killed by signal {self.signal}"
        return "ended in an unknown way" if self.code is None else f"exited with code {self.code}"


@frozen
class SlotHistory:
    """The ends and failed starts in a slot since its spec became ``digest``.

    ``failures`` is how many came in a row without a steady run between them, ``attempts`` how many restarts
    the restart policy has to count, ``restarts`` all of them, ``at`` when the last one was (epoch seconds).
    ``counted`` are the containers already in these numbers, newest last. ``not_before`` and ``stalled`` are what
    a failed start asked for.
    """

    digest: str = ""
    failures: int = 0
    attempts: int = 0
    restarts: int = 0
    at: float = 0.0
    counted: tuple[str, ...] = ()
    exit: ContainerExit | None = None
    not_before: float = 0.0
    stalled: bool = False
    reason: str = ""
    message: str = ""


def compute_delay(failures: int, seed: str) -> float:
    """Seconds between the ``failures``-th failure in a row and the next start."""
    if failures <= 1:
        return 0.0
    delay: float = FIRST_DELAY * 2 ** min(failures - 2, 20)
    share = zlib.crc32(f"{seed}/{failures}".encode()) / 0xFFFFFFFF
    return min(delay * (1 + JITTER * share), LONGEST_DELAY)


def compute_due(history: SlotHistory, seed: str, now: float, delay: float = 0.0) -> float:
    """When the slot may be filled again, at the earliest ``now``; ``delay`` is what the restart policy asks for.

    A last failure that lies in the future means that the clock was set back: then it is now.
    """
    if not history.failures or history.at > now + CLOCK_SLACK:
        return now
    return max(now, history.at + max(compute_delay(history.failures, seed), delay), history.not_before)


def count_end(
    history: SlotHistory, container: tuple[str, str], ran: float, end: ContainerExit, window: float
) -> SlotHistory:
    """Count the end of a container (its id and digest) that ran, healthy if it can be, for ``ran`` seconds."""
    identifier, digest = container
    fresh = history if history.digest == digest else SlotHistory(digest, counted=history.counted)
    return replace(
        ignore_container(fresh, identifier),
        failures=1 if ran >= STEADY_SECONDS else fresh.failures + 1,
        attempts=1 if window and ran >= window else fresh.attempts + 1,
        restarts=fresh.restarts + 1,
        at=end.at,
        exit=end,
        not_before=0.0,
        stalled=False,
        reason="",
        message="",
    )


def count_failed_start(
    history: SlotHistory, digest: str, now: float, error: tuple[str, str, float | None]
) -> SlotHistory:
    """Count a start that failed with (reason, message, seconds until it may be tried again; None for never)."""
    fresh = history if history.digest == digest else SlotHistory(digest, counted=history.counted)
    reason, message, retry_after = error
    return replace(
        fresh,
        failures=fresh.failures + 1,
        at=now,
        not_before=now + (retry_after or 0.0),
        stalled=retry_after is None,
        reason=reason,
        message=message,
    )


def ignore_container(history: SlotHistory, identifier: str) -> SlotHistory:
    """Note that a container's end is not a failure, or is counted already."""
    if identifier in history.counted:
        return history
    return replace(history, counted=(*history.counted, identifier)[-COUNTED_LIMIT:])


def forgive(history: SlotHistory) -> SlotHistory:
    """The history after somebody said that trying again is worth it: no backoff, nothing stalled.

    What failed again and again still has to stay up for a while before it counts as well.
    """
    failures = min(history.failures, FLAPPING_FAILURES) if not history.reason else 0
    return replace(history, failures=failures, attempts=0, not_before=0.0, stalled=False, reason="", message="")
