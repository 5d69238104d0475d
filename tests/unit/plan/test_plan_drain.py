"""What a drain, a probe and a single writer mean to the planner."""

from __future__ import annotations

from plan_values import NOW, container, desired, observed

from agent.plan.actions import StartContainer, StopContainer
from agent.plan.course import Course
from agent.plan.observed import Health, Phase
from agent.plan.planner import compute_plan

LEAVING = {"phase": Phase.STOPPING, "draining": True}
PROBES = {"probes": {"readiness": {}}}


def started(plan: object) -> list[int]:
    return [a.slot for a in plan.ready_actions if isinstance(a, StartContainer)]  # type: ignore[attr-defined]


def test_what_only_drains_takes_no_room() -> None:
    app = desired({"web": {"replicas": 2}})
    old = [container(None, 2)]
    fresh = container(app, 1)
    course = Course(deploying=True)
    for changes, expected in ((LEAVING, [2]), ({**LEAVING, "draining": False}, [])):
        leaving = container(None, 1, id="leaving", **changes)
        assert started(compute_plan(app, observed(app, leaving, fresh, *old), NOW, course)) == expected


def test_no_more_drain_beside_a_rollout_than_there_are_replicas() -> None:
    app = desired({"web": {}})
    leaving = [container(None, 1, id=f"leaving{n}", **LEAVING) for n in range(2)]
    assert started(compute_plan(app, observed(app, *leaving[:1], container(None)), NOW)) == [1]
    assert started(compute_plan(app, observed(app, *leaving, container(None)), NOW)) == []


def test_a_second_writer_starts_when_the_first_has_ended() -> None:
    mounts = [{"kind": "volume", "source": "data", "target": "/data"}]
    app = desired({"web": {"mounts": mounts}}, volumes={"data": {"name": "shop_data"}})
    volumes = frozenset({"shop_data"})
    for changes in (LEAVING, {**LEAVING, "draining": False}):
        plan = compute_plan(app, observed(app, container(None, **changes), volumes=volumes), NOW)
        assert started(plan) == []
        assert "has one writer" in plan.holds[0].message
    assert started(compute_plan(app, observed(app, volumes=volumes), NOW)) == [1]


def test_what_is_not_ready_is_never_replaced_and_takes_no_place_in_a_deploy() -> None:
    app = desired({"web": {"replicas": 2, **PROBES}})
    busy = container(app, 1, health=Health.HEALTHY, accepting=False)
    plan = compute_plan(app, observed(app, busy, container(app, 2, health=Health.HEALTHY)), NOW)
    assert not plan.actions
    assert [hold.reason for hold in plan.holds] == ["NotReady"]
    plan = compute_plan(app, observed(app, busy, container(None, 2)), NOW, Course(deploying=True))
    assert not any(isinstance(action, StopContainer) for action in plan.ready_actions)


def test_what_fails_is_replaced_although_another_is_not_ready_for_long() -> None:
    app = desired({"web": {"replicas": 2, "deadline": 30.0, **PROBES}})
    busy = container(app, 1, health=Health.HEALTHY, accepting=False)
    dead = container(app, 2, health=Health.UNHEALTHY)
    assert started(compute_plan(app, observed(app, busy, dead), NOW)) == [2]
    fresh = container(app, 1, health=Health.STARTING, accepting=False, started=NOW - 10)
    assert started(compute_plan(app, observed(app, fresh, dead), NOW)) == []
