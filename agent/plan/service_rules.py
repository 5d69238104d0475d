"""The rules for one service, in the order in which they are applied. Each reads the view and adds to the draft.

Together they keep: no more containers than desired and the update's parallelism are alive because of a start; a slot
that is filled stays filled, and nothing is stopped before another container of its slot has arrived, unless its order
is stop-first; then its replacement is local.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.plan.actions import Cause
from agent.plan.draft import Draft, ServiceView, is_running
from agent.plan.fill import fill_slots, is_complete
from agent.plan.observed import ObservedContainer, Phase
from agent.plan.pace import has_arrived, is_late
from agent.plan.replace import replace_containers
from agent.plan.restart import Verdict

Rule = Callable[[ServiceView, Draft], None]


def finish_stops(view: ServiceView, draft: Draft) -> None:
    """See every stop that was begun through, whoever began it."""
    for container in _all(view):
        if container.phase is Phase.STOPPING:
            draft.stop(container, Cause("StopBegun", f"{_name(container, draft)} was asked to stop and has not ended"))


def stop_surplus(view: ServiceView, draft: Draft) -> None:
    """Stop what is beyond the desired number: containers that are not ready first, then the highest slots."""
    surplus = [container for container in _all(view) if container.slot not in view.wanted()]
    for container in sorted(surplus, key=lambda container: (container.ready, -container.slot, container.id)):
        if container.phase is Phase.PENDING:
            draft.wait("Starting", f"{_name(container, draft)} is not wanted any more but still starting", view)
        elif is_running(container):
            draft.stop(container, _surplus_cause(view, container, draft))


def retire_replaced(view: ServiceView, draft: Draft) -> None:
    """In a slot with several containers keep the one to keep, and one that may still become it; stop the others."""
    if not view.digest:
        return
    for slot in view.wanted():
        serving = view.serving(slot)
        if is_complete(view, slot):
            for container in serving:
                if container.digest != view.digest and is_running(container):
                    text = (
                        f"{_name(container, draft)} ({container.id[:12]}) is not needed: what is wanted has been done"
                    )
                    draft.stop(container, Cause("Superseded", text))
            continue
        if len(serving) < 2:
            continue
        kept = _choose_kept(serving, view, draft)
        for container in serving:
            if container not in kept and is_running(container):
                draft.stop(container, _retired_cause(container, kept[0], view, draft))


def _choose_kept(serving: list[ObservedContainer], view: ServiceView, draft: Draft) -> list[ObservedContainer]:
    current = [container for container in serving if container.digest == view.digest]
    arrived = [container for container in current if has_arrived(container, view, draft)]
    if arrived:
        return arrived[:1]
    running = [container for container in serving if is_running(container)]
    fallback = sorted(running, key=lambda container: (not container.ready, container.created, container.id))[:1]
    hopeful = [container for container in current if container.health != "unhealthy"]
    if fallback and fallback[0].health == "unhealthy" and hopeful and is_late(hopeful[-1], view, draft):
        return hopeful[-1:]
    return [*fallback, *hopeful[-1:]]


def _retired_cause(retired: ObservedContainer, kept: ObservedContainer, view: ServiceView, draft: Draft) -> Cause:
    name = _name(retired, draft)
    if kept.ready and kept.digest == view.digest:
        return Cause("Replaced", f"{name} ({retired.id[:12]}) has been replaced by {kept.id[:12]}, which is ready")
    if retired.digest != view.digest:
        return Cause("Superseded", f"{name} ({retired.id[:12]}) was made from a spec that is not wanted any more")
    trouble = retired.trouble or "fails its healthcheck"
    return Cause("Unhealthy", f"{name} ({retired.id[:12]}) was to replace {kept.id[:12]} but {trouble}")


def remove_ended(view: ServiceView, draft: Draft) -> None:
    """Delete what has ended and is neither awaited, nor the newest record of a slot that is not filled again yet."""
    for container in _all(view):
        if container.alive or container.phase is Phase.WEDGED:
            continue
        if container.slot not in view.wanted():
            draft.remove(container, _surplus_cause(view, container, draft))
        elif _has_successor(view, container) and not _may_be_needed(view, container, draft):
            draft.remove(container, Cause("Replaced", f"{_name(container, draft)} has a newer container in its slot"))


def _may_be_needed(view: ServiceView, container: ObservedContainer, draft: Draft) -> bool:
    """Whether going back may need to know that its work was done: then it is not done again."""
    deploying = draft.course.deploying and container.digest != view.digest
    return deploying and view.policy.judge(container, None) is Verdict.COMPLETE


def _has_successor(view: ServiceView, container: ObservedContainer) -> bool:
    others = (other for other in view.slots[container.slot] if other is not container)
    return any(_succeeds(view, other, container) for other in others)


def _succeeds(view: ServiceView, other: ObservedContainer, ended: ObservedContainer) -> bool:
    """Whether what is left of ``ended`` is of no use beside ``other``: that fills the slot as well as it could, or
    says more about it."""
    if is_running(other):
        return other.digest in (ended.digest, view.digest)
    return not other.alive and view.rank(other) > view.rank(ended)


def report_ended(view: ServiceView, draft: Draft) -> None:
    """Say which slots stay empty because their container failed for good."""
    for slot in view.wanted():
        ended = view.last_ended(slot)
        if ended is None or view.serving(slot) or ended.digest != view.digest:
            continue
        if view.policy.judge(ended, draft.history(view, slot, view.digest)) is Verdict.FAILED:
            text = f"{draft.name_of(view.name, slot)} {ended.exit or 'ended in an unknown way'} and is not restarted"
            draft.hold("ContainerFailed", text, view, slot, final=True)


def _all(view: ServiceView) -> list[ObservedContainer]:
    return [container for containers in view.slots.values() for container in containers]


def _name(container: ObservedContainer, draft: Draft) -> str:
    return draft.name_of(container.service, container.slot)


def _surplus_cause(view: ServiceView, container: ObservedContainer, draft: Draft) -> Cause:
    if draft.desired is None:
        return Cause("AppRemoved", f"app {draft.observed.name} is not in the desired state any more")
    if view.service is None:
        return Cause("ServiceRemoved", f"service {view.name} is not in app {draft.observed.name} any more")
    return Cause("ScaledDown", f"service {view.name} has {view.replicas} replicas; slot {container.slot} is beyond")


RULES: tuple[Rule, ...] = (
    finish_stops,
    stop_surplus,
    retire_replaced,
    fill_slots,
    replace_containers,
    remove_ended,
    report_ended,
)
