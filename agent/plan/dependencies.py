"""Whether what a service depends on is there: ``depends_on`` and its three conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from agent.plan.draft import Draft, ServiceView, is_running
from agent.plan.observed import Health
from agent.plan.restart import Verdict
from agent.values import frozen


@frozen
class Gate:
    """Whether a first start may happen: ``open``, after the actions in ``after``, or not yet because of ``message``;
    ``reason`` is that of a fault which time does not mend."""

    open: bool
    after: tuple[str, ...] = ()
    message: str = ""
    reason: str = ""


def compute_gate(view: ServiceView, draft: Draft) -> Gate:
    """Look at everything a service depends on. Services are visited in dependency order, so that its plan is known."""
    if view.service is None or draft.desired is None:
        return Gate(True)
    after: list[str] = []
    for name, dependency in view.service.depends_on.items():
        other = draft.views.get(name)
        if other is None or other is view:
            continue
        if other.starts:
            after += other.starts
        elif not _MET.get(dependency.condition, _is_started)(other, draft) and (
            dependency.required or not _is_hopeless(other, dependency.condition, draft)
        ):
            return _explain(name, dependency.condition, other)
    return Gate(True, tuple(after))


def compute_return_gate(view: ServiceView, draft: Draft) -> Gate:
    """Going back happens in reverse order: what depends on a service goes first, unless it cannot without it."""
    for other in draft.views.values():
        needs = other.service.depends_on if other.service is not None else {}
        if view.name in needs and other is not view and _is_going_back(other, draft):
            return Gate(False, message=f"waits until service {other.name}, which depends on {view.name}, is back")
    return Gate(True)


def _is_going_back(view: ServiceView, draft: Draft) -> bool:
    """Whether old containers are still to be replaced, and nothing says that their successors wait for others."""
    serving = [container for slot in view.wanted() for container in view.serving(slot)]
    fresh = [container for container in serving if container.digest == view.digest]
    if not view.digest or len(fresh) == len(serving):
        return False
    patience = view.config.monitor
    tired = (c for c in fresh if not c.ready and c.started and draft.now - c.started > patience)
    histories = (draft.history(view, slot, view.digest) for slot in view.wanted())
    return not any(tired) and not any(history and history.failures for history in histories)


def _explain(name: str, condition: str, other: ServiceView) -> Gate:
    message = f"waits until service {name} {_WORDS.get(condition)}"
    if condition != "service_healthy" or not _is_unchecked(other):
        return Gate(False, message=message)
    message += f", but neither {name} nor its image has a healthcheck: add one, or use the condition service_started"
    return Gate(False, message=message, reason="NoHealthcheck")


def _is_started(view: ServiceView, draft: Draft) -> bool:
    return not view.rolling and all(_has_started(view, slot) for slot in view.wanted())


def _has_started(view: ServiceView, slot: int) -> bool:
    ended = view.last_ended(slot)
    return any(map(is_running, view.slots.get(slot, ()))) or (ended is not None and ended.digest == view.digest)


def _is_healthy(view: ServiceView, draft: Draft) -> bool:
    return not view.unsettled and all(
        any(container.ready and container.health is Health.HEALTHY for container in view.slots.get(slot, ()))
        for slot in view.wanted()
    )


def _is_unchecked(view: ServiceView) -> bool:
    """Whether containers of a service as it is wanted run without a healthcheck or probes."""
    if view.service is not None and view.service.probes is not None:
        return False
    running = (container for slot in view.wanted() for container in view.slots.get(slot, ()) if is_running(container))
    return any(container.health is Health.NONE and container.digest == view.digest for container in running)


def _is_completed(view: ServiceView, draft: Draft) -> bool:
    return all(_has_completed(view, slot, draft) for slot in view.wanted())


def _has_completed(view: ServiceView, slot: int, draft: Draft) -> bool:
    ended = view.last_ended(slot)
    as_wanted = ended is not None and (ended.digest == view.digest or not draft.course.may_run_again(view.name))
    return ended is not None and ended.succeeded and as_wanted


def _is_hopeless(view: ServiceView, condition: str, draft: Draft) -> bool:
    if condition == "service_healthy" and _is_unchecked(view):
        return True
    return view.image.stalled or any(_is_failed(view, slot, draft) for slot in view.wanted())


def _is_failed(view: ServiceView, slot: int, draft: Draft) -> bool:
    if view.serving(slot):
        return False
    ended = view.last_ended(slot)
    history = draft.history(view, slot, view.digest)
    if history is not None and history.stalled:
        return True
    return ended is not None and view.policy.judge(ended, history) is Verdict.FAILED


_MET: Mapping[str, Callable[[ServiceView, Draft], bool]] = MappingProxyType(
    {
        "service_started": _is_started,
        "service_healthy": _is_healthy,
        "service_completed_successfully": _is_completed,
    }
)
_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "service_started": "has started",
        "service_healthy": "is healthy",
        "service_completed_successfully": "has completed successfully",
    }
)
