"""The rule that fills empty slots: first starts, scale-up, and restarts of what has ended."""

from __future__ import annotations

from agent.plan.actions import Cause, StartContainer
from agent.plan.crashloop import CRASH_LOOP, is_crash_loop
from agent.plan.dependencies import Gate, compute_gate
from agent.plan.draft import Draft, ServiceView
from agent.plan.observed import ObservedContainer, Phase
from agent.plan.pace import why_stop_first
from agent.plan.restart import Verdict
from agent.plan.wants import networks_of, volumes_of


def fill_slots(view: ServiceView, draft: Draft) -> None:
    """Start a container in every slot that has none, all at once, as far as policy, backoff and surge allow."""
    empty = [slot for slot in view.wanted() if not view.serving(slot)]
    budget = view.replicas + view.surge - view.count_alive()
    gate = compute_gate(view, draft) if empty else Gate(True)
    for slot in empty:
        if is_finished(view, slot, draft):
            continue
        view.reserved += 1
        if _is_being_left(view, slot, draft):
            continue
        action = _compute_start(view, slot, draft, gate)
        if action is None:
            continue
        if budget <= 0:
            draft.wait("Stopping", f"{action.name} starts when others have stopped", view, slot)
            view.unsettled += 1
            continue
        budget -= 1
        draft.start(view, action)


def _is_being_left(view: ServiceView, slot: int, draft: Draft) -> bool:
    """Whether what was in a slot has to end before it is filled again, and has not."""
    left = [container for container in view.slots.get(slot, ()) if container.alive]
    why = why_stop_first(view.service, view.config) if left else ""
    if not why:
        return False
    name = draft.name_of(view.name, slot)
    draft.wait("Stopping", f"{name} starts when the one before has ended, for {why}", view, slot)
    view.unsettled += 1
    return True


def _compute_start(view: ServiceView, slot: int, draft: Draft, gate: Gate) -> StartContainer | None:
    ended = view.last_ended(slot)
    if ended is not None and is_same_spec(view, ended):
        return _compute_restart(view, slot, ended, draft, gate)
    return _compute_first(view, slot, ended, draft, gate)


def is_same_spec(view: ServiceView, container: ObservedContainer) -> bool:
    """Whether a container is as desired; while nobody knows what is desired, the last spec stays in force."""
    return container.digest == view.digest or not view.digest


def is_complete(view: ServiceView, slot: int) -> bool:
    """Whether what is wanted of a slot has been done."""
    ended = view.last_ended(slot)
    as_wanted = ended is not None and bool(view.digest) and ended.digest == view.digest
    return ended is not None and as_wanted and view.policy.judge(ended, None) is Verdict.COMPLETE


def is_finished(view: ServiceView, slot: int, draft: Draft) -> bool:
    """Whether a slot stays empty because what was in it has done its work, or failed for good."""
    ended = view.last_ended(slot)
    if ended is None:
        return False
    if not is_same_spec(view, ended):
        done = view.policy.judge(ended, None) is Verdict.COMPLETE
        return done and not draft.course.may_run_again(view.name)
    return view.policy.judge(ended, draft.history(view, slot, ended.digest)) is not Verdict.RESTART


def _compute_restart(
    view: ServiceView, slot: int, ended: ObservedContainer, draft: Draft, gate: Gate
) -> StartContainer | None:
    """Fill a slot with what was in it: at once or after its backoff; only a lost host makes it wait for others."""
    if not may_start(view, slot, ended.digest, draft):
        return None
    lost = ended.phase is Phase.LOST
    if lost and not gate.open:
        _hold_back(view, slot, draft, gate)
        return None
    name = draft.name_of(view.name, slot)
    kind = "OutOfMemory" if ended.exit and ended.exit.oom else "ContainerLost" if lost else "ContainerExited"
    how = f"{name} {ended.exit or 'ended in an unknown way'}"
    if ended.phase is Phase.WEDGED:
        kind, how = "ContainerWedged", f"{name} ({ended.id[:12]}) does not end although killed"
    return StartContainer(
        id=start_id(view, slot, ended.digest, draft),
        cause=Cause(kind, how),
        after=needed_actions(view, draft) + (gate.after if lost else ()),
        service=view.name,
        slot=slot,
        name=name,
        image=ended.image if not view.digest else view.image.id or "",
        digest=ended.digest,
        template="" if view.digest else ended.id,
        restart=True,
    )


def _compute_first(
    view: ServiceView, slot: int, ended: ObservedContainer | None, draft: Draft, gate: Gate
) -> StartContainer | None:
    """Fill a slot with a spec new to it: its image is resolved first, and what it depends on is there."""
    name = draft.name_of(view.name, slot)
    if view.digest and not may_start(view, slot, view.digest, draft):
        return None
    pull = pending_pull(view, draft)
    if pull is None:
        draft.wait("ImageNotReady", f"{name} waits for its image", view, slot)
        return None
    if not gate.open:
        _hold_back(view, slot, draft, gate)
        return None
    return StartContainer(
        id=start_id(view, slot, view.digest, draft),
        cause=_first_cause(view, name, ended),
        after=(*pull, *needed_actions(view, draft), *gate.after),
        service=view.name,
        slot=slot,
        name=name,
        image=view.image.id or "",
        digest=view.digest,
    )


def _hold_back(view: ServiceView, slot: int, draft: Draft, gate: Gate) -> None:
    message = f"{draft.name_of(view.name, slot)} {gate.message}"
    if gate.reason:
        draft.hold(gate.reason, message, view, slot, final=True)
    else:
        draft.wait("DependencyNotReady", message, view, slot)


def _first_cause(view: ServiceView, name: str, ended: ObservedContainer | None) -> Cause:
    if ended is not None:
        return Cause("SpecChanged", f"{name} has ended, and its spec has changed since")
    if not view.slots:
        return Cause("ServiceAdded", f"service {view.name} has no container yet")
    return Cause("SlotEmpty", f"service {view.name} has {view.replicas} replicas; {name} is missing")


def may_start(view: ServiceView, slot: int, digest: str, draft: Draft) -> bool:
    """Whether neither a failed start nor the backoff forbids it now; says so in the draft."""
    history = draft.history(view, slot, digest)
    if history is None:
        return True
    name = draft.name_of(view.name, slot)
    if history.stalled:
        text = f"{name}: {history.message or 'cannot be started'}"
        draft.hold(history.reason or "Stalled", text, view, slot, final=True)
        return False
    due = draft.due(view, slot, digest)
    if due <= draft.now:
        return True
    last = f"{name}: {history.message}" if history.message else f"{name} {history.exit or 'failed'}"
    often = f", {history.failures} times in a row" if history.failures > 1 else ""
    elder = any(container.ready and container.digest != digest for container in view.serving(slot))
    meanwhile = "; the one before it serves on" if elder else ""
    text = f"{last}{often}; next start in {due - draft.now:.1f} s{meanwhile}"
    reason = CRASH_LOOP if is_crash_loop(history) else history.reason or "BackOff"
    draft.hold(reason, text, view, slot)
    return False


def is_held_back(view: ServiceView, slot: int, draft: Draft) -> bool:
    """Whether the desired spec failed in a slot and is not to be tried there now."""
    history = draft.history(view, slot, view.digest)
    return history is not None and (history.stalled or draft.due(view, slot, view.digest) > draft.now)


def pending_pull(view: ServiceView, draft: Draft) -> tuple[str, ...] | None:
    """What a first start comes after: nothing, the action that resolves its image, or None: nobody can now."""
    if view.image.current and view.digest:
        return ()
    key = draft.desired.image_keys.get(view.name, "") if draft.desired else ""
    return (f"image/{key}",) if key in draft.pulls else None


def needed_actions(view: ServiceView, draft: Draft) -> tuple[str, ...]:
    """The actions that make the networks and volumes of a service exist, where they do not."""
    if draft.desired is None or view.service is None:
        return ()
    networks = (draft.desired.network_names[key] for key in networks_of(view.service))
    volumes = (draft.desired.volume_names[key] for key in volumes_of(view.service))
    return (
        *(f"network/{name}" for name in networks if name not in draft.observed.networks),
        *(f"volume/{name}" for name in volumes if name not in draft.observed.volumes),
    )


def start_id(view: ServiceView, slot: int, digest: str, draft: Draft) -> str:
    """An id that differs from that of every earlier start in the slot."""
    history = draft.slots.get((view.name, slot))
    attempt = len(history.counted) + history.restarts + history.failures if history else 0
    return f"start/{draft.name_of(view.name, slot)}/{digest[-12:] or 'unresolved'}/{attempt}"
