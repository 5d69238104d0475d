"""Backoff: at once, then 100 ms doubling to five minutes, with a jitter that is always the same."""

from __future__ import annotations

import pytest

from agent.plan.history import (
    COUNTED_LIMIT,
    JITTER,
    LONGEST_DELAY,
    ContainerExit,
    SlotHistory,
    compute_delay,
    count_end,
    forgive,
    ignore_container,
)


@pytest.mark.parametrize(("failures", "base"), [(0, 0.0), (1, 0.0), (2, 0.1), (3, 0.2), (4, 0.4), (10, 25.6)])
def test_delays_double(failures: int, base: float) -> None:
    delay = compute_delay(failures, "shop-web-1")
    assert base <= delay <= base * (1 + JITTER)
    assert delay == compute_delay(failures, "shop-web-1")


def test_delay_ends_at_five_minutes() -> None:
    assert all(compute_delay(failures, "x") == LONGEST_DELAY for failures in (14, 50, 10**9))


def test_slots_do_not_restart_in_step() -> None:
    assert len({compute_delay(8, f"shop-web-{slot}") for slot in range(20)}) == 20


def test_an_end_counts_once() -> None:
    once = count_end(SlotHistory(), ("c1", "d"), 1.0, ContainerExit(1, at=5.0), 0.0)
    assert (once.failures, once.restarts, once.at) == (1, 1, 5.0)
    assert "c1" in once.counted
    assert ignore_container(once, "c1") is once


def test_window_resets_the_attempts() -> None:
    before = SlotHistory("d", failures=3, attempts=3)
    assert count_end(before, ("c", "d"), 60.0, ContainerExit(1), 30.0).attempts == 1
    assert count_end(before, ("c", "d"), 20.0, ContainerExit(1), 30.0).attempts == 4


def test_another_spec_starts_over() -> None:
    after = count_end(SlotHistory("old", failures=7, restarts=7), ("c", "new"), 0.0, ContainerExit(1), 0.0)
    assert (after.digest, after.failures, after.restarts) == ("new", 1, 1)


def test_counted_is_bounded() -> None:
    history = SlotHistory()
    for number in range(100):
        history = ignore_container(history, str(number))
    assert history.counted == tuple(str(number) for number in range(100 - COUNTED_LIMIT, 100))


def test_forgiven_slot_keeps_its_count_of_restarts() -> None:
    after = forgive(SlotHistory("d", failures=7, attempts=7, restarts=7, stalled=True))
    assert (after.failures, after.stalled, after.restarts) == (2, False, 7), "still to be watched, but due at once"
