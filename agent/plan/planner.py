"""The planner: one pass of the rules over one app."""

from __future__ import annotations

from agent.plan.actions import Hold, Plan
from agent.plan.app_rules import ensure_images, ensure_networks, ensure_volumes, remove_networks
from agent.plan.course import STEADY, Course
from agent.plan.crashloop import report_crash_loops
from agent.plan.draft import UNKNOWN_IMAGE, Draft, ServiceView, group_by_service, group_by_slot
from agent.plan.ends import count_ends, forget_slots
from agent.plan.observed import ObservedApp, ObservedContainer
from agent.plan.pace import compute_update
from agent.plan.progress import compute_progress
from agent.plan.restart import compute_policy
from agent.plan.service_rules import RULES
from agent.plan.wants import DesiredApp
from agent.plan.wedged import report_wedged


def compute_plan(desired: DesiredApp | None, observed: ObservedApp, now: float, course: Course = STEADY) -> Plan:
    """What has to be done so that ``observed`` becomes ``desired`` (None: nothing of the app) at ``now`` (epoch s), on
    the way that ``course`` says.

    Total: every combination of arguments has a plan. Containers of other owners are not looked at.
    """
    draft = Draft(desired, observed, now, course, slots=observed.slots)
    draft.digests = desired.digests(observed.images) if desired else {}
    groups = group_by_service(observed.containers, observed.name)
    ensure_images(draft)
    ensure_networks(draft)
    ensure_volumes(draft)
    order = desired.order if desired else ()
    for name in order:
        draft.views[name] = _view_wanted(name, groups.pop(name, []), draft)
    for name in (*reversed(order),) if course.reverting else order:
        _plan_service(draft.views[name], draft)
    for name in sorted(groups):
        _plan_service(ServiceView(name, slots=group_by_slot(groups[name])), draft)
    remove_networks(draft)
    forget_slots(draft)
    progress = {name: compute_progress(draft.views[name], draft) for name in order} if course.deploying else {}
    return Plan(observed.name, tuple(draft.actions), tuple(draft.holds), draft.next_check, draft.slots, progress)


def compute_preparation(desired: DesiredApp, observed: ObservedApp, now: float) -> Plan:
    """What has to be done before ``desired`` can be deployed, with no effect on what runs: its images made local."""
    draft = Draft(desired, observed, now, slots=observed.slots)
    ensure_images(draft)
    return Plan(observed.name, tuple(draft.actions), tuple(draft.holds), draft.next_check, draft.slots)


def _view_wanted(name: str, containers: list[ObservedContainer], draft: Draft) -> ServiceView:
    assert draft.desired is not None
    service = draft.desired.app.services[name]
    return ServiceView(
        name=name,
        service=service,
        replicas=max(0, service.replicas),
        digest=draft.digests.get(name, ""),
        image=draft.observed.images.get(draft.desired.image_keys[name], UNKNOWN_IMAGE),
        policy=compute_policy(service.restart, name in draft.desired.awaited),
        config=compute_update(service, reverting=draft.course.reverting),
        slots=group_by_slot(containers),
    )


def _plan_service(view: ServiceView, draft: Draft) -> None:
    draft.views[view.name] = view
    if view.name in draft.course.paused:
        text = f"service {view.name} is paused: holdfast resume {draft.observed.name}/{view.name} ends that"
        draft.holds.append(Hold("Paused", text, view.name, final=True, chosen=True))
        return
    report_crash_loops(view, draft)
    if view.calm:
        return
    count_ends(view, draft)
    for rule in RULES:
        rule(view, draft)
    report_wedged(view, draft)
