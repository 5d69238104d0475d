"""Counting what happened in the slots since the last plan, before any rule looks at them."""

from __future__ import annotations

from dataclasses import replace

from agent.plan.draft import Draft, ServiceView
from agent.plan.history import ContainerExit, SlotHistory, count_end, ignore_container
from agent.plan.observed import Health, ObservedContainer, Phase
from agent.plan.restart import Verdict

_NOTHING = SlotHistory()


def count_ends(view: ServiceView, draft: Draft) -> None:
    """Count every failure of a container of this service that is not counted yet, in the draft's slot histories."""
    counted = {}
    for slot in view.wanted():
        before = draft.slots.get((view.name, slot), _NOTHING)
        after = before
        for container in view.slots.get(slot, ()):
            if container.id not in after.counted:
                after = _count(after, container, view, draft.now)
        if after is not before:
            counted[view.name, slot] = after
    if counted:
        draft.slots = {**draft.slots, **counted}


def _count(history: SlotHistory, container: ObservedContainer, view: ServiceView, now: float) -> SlotHistory:
    """What a container adds to its slot's history: nothing while it does what it should, nor when its spec is
    not wanted any more and the slot's history is already that of the new one."""
    if container.phase in (Phase.STOPPING, Phase.WEDGED):
        return ignore_container(history, container.id)
    sick = container.phase is Phase.RUNNING and container.health is Health.UNHEALTHY
    if not sick and container.alive:
        return history
    if not sick and view.policy.judge(container, None) is Verdict.COMPLETE:
        return ignore_container(history, container.id)
    if container.digest != view.digest == history.digest:
        return ignore_container(history, container.id)
    end = (None if sick else container.exit) or ContainerExit(None, at=now)
    identity = (container.id, container.digest)
    after = count_end(history, identity, _time_up(container, end.at), end, view.policy.window)
    if sick:
        return replace(after, exit=None, reason="Unhealthy", message=container.trouble or "failed its healthcheck")
    return after


def _time_up(container: ObservedContainer, until: float) -> float:
    """For how long it did what it should, in seconds."""
    since = container.started if container.health is Health.NONE else container.healthy_at
    return max(0.0, until - since) if since else 0.0


def forget_slots(draft: Draft) -> None:
    """Drop the histories of slots that are not wanted any more."""
    stale = [(name, slot) for name, slot in draft.slots if not _is_wanted(draft, name, slot)]
    if stale:
        draft.slots = {key: history for key, history in draft.slots.items() if key not in stale}


def _is_wanted(draft: Draft, name: str, slot: int) -> bool:
    view = draft.views.get(name)
    return view is not None and slot in view.wanted()
