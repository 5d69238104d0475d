"""The rule that replaces containers that are not as desired, at the pace of their service, or not healthy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from agent.plan.actions import Cause, FieldChange, StartContainer
from agent.plan.dependencies import compute_gate, compute_return_gate
from agent.plan.diff import compute_changes
from agent.plan.draft import SURGE, Draft, ServiceView
from agent.plan.fill import is_complete, is_held_back, may_start, needed_actions, pending_pull, start_id
from agent.plan.observed import Health, ObservedContainer
from agent.plan.pace import Pace, compute_pace, has_arrived, is_late, why_stop_first


def replace_containers(view: ServiceView, draft: Draft) -> None:
    """Begin the next replacements, as many as may be under way, and forecast those that follow them."""
    found = _find_candidates(view, draft)
    if found.sick and (view.unsettled > found.late or view.count_alive() + view.reserved >= view.replicas + SURGE):
        draft.wait("Replacing", f"{len(found.sick)} of {view.name} to be replaced, one at a time", view)
        return
    for container in found.sick:
        if _replace_sick(view, container, draft):
            return
    if found.outdated:
        _replace_outdated(view, found, draft)


@dataclass
class _Candidates:
    """What of a service is to be replaced, the worst first, and what has arrived with the desired spec. ``late``
    counts the slots whose container is not ready for so long that nobody waits for it to get so."""

    sick: list[ObservedContainer] = field(default_factory=list)
    outdated: list[ObservedContainer] = field(default_factory=list)
    arrived: list[ObservedContainer] = field(default_factory=list)
    late: int = 0


def _find_candidates(view: ServiceView, draft: Draft) -> _Candidates:
    found = _Candidates()
    for slot in view.wanted():
        serving = view.serving(slot)
        current = [container for container in serving if container.digest == view.digest]
        arrived = [container for container in current if has_arrived(container, view, draft)]
        found.arrived += arrived[:1]
        if not serving or arrived or is_complete(view, slot):
            continue
        if any(container.health is not Health.UNHEALTHY for container in current):
            view.unsettled += 1
            found.late += all(is_late(container, view, draft) for container in current)
            view.rolling = view.rolling or len(serving) > 1
            draft.wait("NotReady", f"{draft.name_of(view.name, slot)} is not ready yet", view, slot)
        elif len(serving) > 1:
            draft.hold("Unhealthy", f"{draft.name_of(view.name, slot)} fails its healthcheck", view, slot)
        elif current or (not view.digest and serving[0].health is Health.UNHEALTHY):
            found.sick.append(serving[0])
        elif view.digest:
            found.outdated.append(serving[0])
    found.outdated.sort(key=lambda container: (container.ready, container.slot))
    return found


def _replace_sick(view: ServiceView, container: ObservedContainer, draft: Draft) -> bool:
    name = draft.name_of(view.name, container.slot)
    history = draft.history(view, container.slot, container.digest)
    if view.policy.exhausted(history, container.digest):
        text = f"{name} {container.trouble or 'fails its healthcheck'}, and its restart policy allows no other"
        draft.hold("Unhealthy", text, view, container.slot, final=True)
        return False
    if not may_start(view, container.slot, container.digest, draft):
        return False
    cause = Cause("Unhealthy", f"{name} {container.trouble or 'fails its healthcheck'}")
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


def _replace_outdated(view: ServiceView, found: _Candidates, draft: Draft) -> None:
    outdated = found.outdated
    if draft.course.held:
        draft.wait("RolloutHeld", f"{len(outdated)} of {view.name} keep their containers: {draft.course.held}", view)
        return
    failing = {slot for slot in view.wanted() if is_held_back(view, slot, draft)}
    for container in outdated if failing else ():
        may_start(view, container.slot, view.digest, draft)
    if failing:
        found.outdated = outdated = [container for container in outdated if container.slot not in failing]
        if not outdated or not _puts_up_with(view, len(failing)):
            return
    name = draft.name_of(view.name, outdated[0].slot)
    pull = pending_pull(view, draft)
    if pull is None:
        draft.wait("ImageNotReady", f"{name} keeps its old container until the new image is there", view)
        return
    gate = compute_return_gate(view, draft) if draft.course.reverting else compute_gate(view, draft)
    if not gate.open:
        draft.wait("DependencyNotReady", f"the replacement of {name} {gate.message}", view)
        return
    stop_first = why_stop_first(view.service, view.config)
    pace = _compute_room(view, found, draft, stop_first)
    if pace.count <= 0:
        draft.check_at(0.0 if pace.until == math.inf else pace.until)
        draft.wait("Replacing", f"{len(outdated)} more of {view.name} to be replaced: {pace.message}", view)
        return
    needed = (*pull, *needed_actions(view, draft), *gate.after)
    chains = [needed] * pace.count
    replace_one = _replace_stopped_first if stop_first else _replace_one
    for number, container in enumerate(outdated):
        cause = _spec_cause(view, container, draft, stop_first)
        chains[number % pace.count] = replace_one(view, container, draft, chains[number % pace.count], cause)


def _puts_up_with(view: ServiceView, failing: int) -> bool:
    """Whether a rollout goes on with the other slots although its new containers fail in some; so does what is left of
    one that is final."""
    return view.config.failure_action == "continue" or failing <= view.config.max_failure_ratio * max(view.replicas, 1)


def _compute_room(view: ServiceView, found: _Candidates, draft: Draft, stop_first: str) -> Pace:
    """The pace, and, where old and new containers of a slot live side by side, room for the new ones."""
    failing = sum(not view.serving(slot) and is_held_back(view, slot, draft) for slot in view.wanted())
    pace = compute_pace(view, draft, view.unsettled + view.reserved - failing, found.arrived)
    room = view.replicas + view.surge - view.count_alive() - view.reserved
    if stop_first or pace.count <= 0 or room > 0:
        return pace if stop_first else replace(pace, count=min(pace.count, room))
    return Pace(0, message="others have to end first")


def _replace_stopped_first(
    view: ServiceView, container: ObservedContainer, draft: Draft, before: tuple[str, ...], cause: Cause
) -> tuple[str, ...]:
    """The record of the stopped one stays until its successor runs, and says what it was."""
    identifier = draft.stop(container, cause, before, remove=False)
    start = StartContainer(
        id=start_id(view, container.slot, view.digest, draft),
        cause=cause,
        after=(identifier,),
        service=view.name,
        slot=container.slot,
        name=draft.name_of(view.name, container.slot),
        image=view.image.id or "",
        digest=view.digest,
    )
    return (draft.start(view, start),)


def _replace_one(
    view: ServiceView, container: ObservedContainer, draft: Draft, before: tuple[str, ...], cause: Cause
) -> tuple[str, ...]:
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


def _spec_cause(view: ServiceView, container: ObservedContainer, draft: Draft, stop_first: str) -> Cause:
    old = draft.observed.documents.get(container.digest)
    changes: tuple[FieldChange, ...] = ()
    if old is not None and draft.desired is not None:
        changes = compute_changes(old, draft.desired.document(view.name, view.image.id or ""))
    fields = ", ".join(change.path for change in changes[:5]) or "what it is made from"
    order = f"; stopped first, for {stop_first}" if stop_first else ""
    if container.image != view.image.id and all(change.path == "image_id" for change in changes):
        return Cause("ImageChanged", f"the image of service {view.name} has changed{order}", changes)
    return Cause("SpecChanged", f"service {view.name} has changed: {fields}{order}", changes)
