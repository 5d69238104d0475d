"""When a slot that failed counts as well again: not before one of its containers has been up for a while."""

from __future__ import annotations

from agent.plan.draft import Draft, ServiceView
from agent.plan.history import CLOCK_SLACK, FLAPPING_FAILURES, STEADY_SECONDS, SlotHistory
from agent.plan.observed import Health, ObservedContainer, Phase

CRASH_LOOP = "CrashLoop"
CRASH_LOOP_FAILURES = 5
_OWN_REASONS = ("", "Unhealthy")


def is_crash_loop(history: SlotHistory | None) -> bool:
    """Whether a slot's containers have ended, or had to be replaced, five times in a row; a start that fails says
    itself why."""
    return history is not None and history.failures >= CRASH_LOOP_FAILURES and history.reason in _OWN_REASONS


def report_crash_loops(view: ServiceView, draft: Draft) -> None:
    """Say of a container that runs again after more than one failure that this is not over yet."""
    if not draft.slots:
        return
    for slot in view.wanted():
        history = draft.slots.get((view.name, slot))
        if history is None or history.failures < FLAPPING_FAILURES or history.reason not in _OWN_REASONS:
            continue
        if history.digest != view.digest:
            continue
        for container in view.serving(slot):
            fresh = container.phase is Phase.RUNNING and container.digest == history.digest
            if fresh and not _is_steady(container, draft):
                name = draft.name_of(view.name, slot)
                last = history.exit or history.message or "failed"
                text = f"{name} {last}, {history.failures} times in a row; it runs again and is watched for 10 s"
                if is_crash_loop(history):
                    draft.hold(CRASH_LOOP, text, view, slot)
                else:
                    draft.wait("Restarted", text, view, slot)
                break


def _is_steady(container: ObservedContainer, draft: Draft) -> bool:
    """Whether its end would not be counted as one more of those before; asks for a plan at that time."""
    since = container.started if container.health is Health.NONE else container.healthy_at
    if not since:
        return False
    if since > draft.now + CLOCK_SLACK:  # the clock was set back: nobody knows
        return True
    draft.check_at(since + STEADY_SECONDS)
    return draft.now >= since + STEADY_SECONDS
