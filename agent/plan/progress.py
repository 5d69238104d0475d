"""Where a deploy stands with each service, for those who decide whether it goes on."""

from __future__ import annotations

from agent.plan.course import Progress
from agent.plan.draft import Draft, ServiceView
from agent.plan.fill import is_finished
from agent.plan.history import CLOCK_SLACK
from agent.plan.observed import ObservedContainer, Phase
from agent.plan.pace import has_arrived
from agent.plan.restart import Verdict


def compute_progress(view: ServiceView, draft: Draft) -> Progress:
    """The progress of one service, after every rule has looked at it."""
    failed = {slot: text for slot in view.wanted() if (text := _failure(view, slot, draft))}
    missing = {slot for slot in view.wanted() if not _is_settled(view, slot, draft)}
    clean = bool(view.digest) and not any(slot not in view.wanted() and _present(view, slot) for slot in view.slots)
    return Progress(clean and not missing, view.replicas, tuple(failed.values()), clean and missing <= failed.keys())


def _is_settled(view: ServiceView, slot: int, draft: Draft) -> bool:
    containers = _present(view, slot)
    if len(containers) == 1 and containers[0].digest == view.digest and has_arrived(containers[0], view, draft):
        return True
    ended = view.last_ended(slot)
    if ended is None or any(container.alive for container in containers):
        return False
    if view.policy.judge(ended, None) is not Verdict.COMPLETE:
        return False
    return ended.digest == view.digest or not draft.course.may_run_again(view.name)


def _present(view: ServiceView, slot: int) -> list[ObservedContainer]:
    """The containers of a slot but those that do not die: a deploy does not wait for them."""
    return [container for container in view.slots.get(slot, ()) if container.phase is not Phase.WEDGED]


def _failure(view: ServiceView, slot: int, draft: Draft) -> str:
    """What went wrong in a slot since the deploy began; empty when nothing did."""
    name = draft.name_of(view.name, slot)
    history = draft.history(view, slot, view.digest) if view.digest else None
    if history is not None and history.at >= draft.course.since and (history.failures or history.stalled):
        colon = "" if history.reason == "Unhealthy" else ":"
        return f"{name}{colon} {history.message}" if history.message else f"{name} {history.exit or 'failed'}"
    ended = view.last_ended(slot)
    if ended is not None and ended.digest == view.digest and is_finished(view, slot, draft):
        at = ended.exit.at if ended.exit else draft.now
        if at >= draft.course.since and view.policy.judge(ended, history) is Verdict.FAILED:
            return f"{name} {ended.exit or 'ended in an unknown way'}"
    return _lateness(view, slot, draft)


def _lateness(view: ServiceView, slot: int, draft: Draft) -> str:
    deadline = view.service.deadline if view.service else 0.0
    for container in view.slots.get(slot, ()):
        fresh = container.phase is Phase.RUNNING and container.digest == view.digest and not container.ready
        if not deadline or not fresh:
            continue
        started = container.started if container.started <= draft.now + CLOCK_SLACK else 0.0  # the clock was set back
        due = max(started, draft.course.since) + deadline
        if due <= draft.now:
            return f"{draft.name_of(view.name, slot)} is not ready {deadline:g} s after its start"
        draft.check_at(due)
    return ""
