"""The rule that replaces containers that are not as desired or not healthy: start first, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from agent.plan.actions import Cause, FieldChange, StartContainer
from agent.plan.dependencies import compute_gate
from agent.plan.diff import compute_changes
from agent.plan.draft import Draft, ServiceView
from agent.plan.fill import SURGE, is_held_back, may_start, needed_actions, pending_pull, start_id
from agent.plan.observed import Health, ObservedContainer


def replace_containers(view: ServiceView, draft: Draft) -> None:
    """Begin the next replacement, unless one is under way, and forecast those that follow it."""
    sick, outdated = _find_candidates(view, draft)
    if not sick and not outdated:
        return
    if view.unsettled or view.count_alive() + view.reserved >= view.replicas + SURGE:
        draft.wait("Replacing", f"{len(sick) + len(outdated)} more of {view.name} to be replaced, one at a time", view)
        return
    for container in sick:
        if _replace_sick(view, container, draft):
            return
    if outdated:
        _replace_outdated(view, outdated, draft)


def _find_candidates(view: ServiceView, draft: Draft) -> tuple[list[ObservedContainer], list[ObservedContainer]]:
    """The slots whose one container is unhealthy, and those whose container has another spec; the worst first."""
    sick: list[ObservedContainer] = []
    outdated: list[ObservedContainer] = []
    for slot in view.wanted():
        serving = view.serving(slot)
        current = [container for container in serving if container.digest == view.digest]
        if not serving or any(container.ready for container in current):
            continue
        if any(container.health is not Health.UNHEALTHY for container in current):
            view.unsettled = True
            view.rolling = view.rolling or len(serving) > 1
            draft.wait("NotReady", f"{draft.name_of(view.name, slot)} is not ready yet", view, slot)
        elif len(serving) > 1:
            draft.hold("Unhealthy", f"{draft.name_of(view.name, slot)} fails its healthcheck", view, slot)
        elif current or (not view.digest and serving[0].health is Health.UNHEALTHY):
            sick.append(serving[0])
        elif view.digest:
            outdated.append(serving[0])
    return sick, sorted(outdated, key=lambda container: (container.ready, container.slot))


def _replace_sick(view: ServiceView, container: ObservedContainer, draft: Draft) -> bool:
    name = draft.name_of(view.name, container.slot)
    history = draft.history(view, container.slot, container.digest)
    if view.policy.exhausted(history, container.digest):
        text = f"{name} fails its healthcheck, and its restart policy allows no other"
        draft.hold("Unhealthy", text, view, container.slot, final=True)
        return False
    if not may_start(view, container.slot, container.digest, draft):
        return False
    cause = Cause("Unhealthy", f"{name} fails its healthcheck")
    start = StartContainer(
        id=start_id(view, container.slot, container.digest, draft),
        cause=cause,
        after=needed_actions(view, draft),
        service=view.name,
        slot=container.slot,
        name=name,
        image=view.image.id or "" if view.digest else container.image,
        digest=container.digest,
        template="" if view.digest else container.id,
        restart=True,
    )
    draft.stop(container, cause, (draft.start(view, start),))
    return True


def _replace_outdated(view: ServiceView, outdated: Sequence[ObservedContainer], draft: Draft) -> None:
    if any(is_held_back(view, slot, draft) for slot in view.wanted()):
        for container in outdated:
            may_start(view, container.slot, view.digest, draft)
        return
    name = draft.name_of(view.name, outdated[0].slot)
    pull = pending_pull(view, draft)
    if pull is None:
        draft.wait("ImageNotReady", f"{name} keeps its old container until the new image is there", view)
        return
    gate = compute_gate(view, draft)
    if not gate.open:
        draft.wait("DependencyNotReady", f"the replacement of {name} {gate.message}", view)
        return
    before = (*pull, *needed_actions(view, draft), *gate.after)
    for container in outdated:
        before = _replace_one(view, container, draft, before)


def _replace_one(
    view: ServiceView, container: ObservedContainer, draft: Draft, before: tuple[str, ...]
) -> tuple[str, ...]:
    cause = _spec_cause(view, container, draft)
    start = StartContainer(
        id=start_id(view, container.slot, view.digest, draft),
        cause=cause,
        after=before,
        service=view.name,
        slot=container.slot,
        name=draft.name_of(view.name, container.slot),
        image=view.image.id or "",
        digest=view.digest,
    )
    return (draft.stop(container, cause, (draft.start(view, start),)),)


def _spec_cause(view: ServiceView, container: ObservedContainer, draft: Draft) -> Cause:
    old = draft.observed.documents.get(container.digest)
    changes: tuple[FieldChange, ...] = ()
    if old is not None and draft.desired is not None:
        changes = compute_changes(old, draft.desired.document(view.name, view.image.id or ""))
    fields = ", ".join(change.path for change in changes[:5]) or "what it is made from"
    if container.image != view.image.id and all(change.path == "image_id" for change in changes):
        return Cause("ImageChanged", f"the image of service {view.name} has changed", changes)
    return Cause("SpecChanged", f"service {view.name} has changed: {fields}", changes)
