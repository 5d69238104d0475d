"""A slot whose containers fail again and again is in a crash loop until one of them stays up."""

from __future__ import annotations

from plan_values import container, desired, digest, observed

from agent.plan.actions import StopContainer
from agent.plan.history import ContainerExit, SlotHistory
from agent.plan.observed import Health
from agent.plan.planner import compute_plan

NOW = 1000.0


def failing(app, failures: int, reason: str = "") -> SlotHistory:  # type: ignore[no-untyped-def]
    return SlotHistory(digest(app), failures=failures, at=NOW, exit=ContainerExit(3, at=NOW), reason=reason)


def holds(app, history: SlotHistory, now: float, **changes: object) -> list[tuple[str, bool]]:  # type: ignore[no-untyped-def]
    running = container(app, created=NOW, started=NOW, **changes)
    seen = observed(app, running, slots={("web", 1): history})
    plan = compute_plan(app, seen, now)
    return [(hold.reason, hold.failing) for hold in plan.holds]


def test_it_is_not_over_before_a_container_was_up_for_a_while() -> None:
    app = desired({"web": {}})
    assert holds(app, failing(app, 1), NOW + 1) == []
    assert holds(app, failing(app, 4), NOW + 1) == [("Restarted", False)]
    assert holds(app, failing(app, 5), NOW + 1) == [("CrashLoop", True)]
    seen = observed(app, container(app, created=NOW, started=NOW), slots={("web", 1): failing(app, 5)})
    assert compute_plan(app, seen, NOW + 1).next_check == NOW + 10
    assert holds(app, failing(app, 5), NOW + 10) == []
    assert holds(app, failing(app, 5), NOW - 500) == [], "the clock was set back"


def test_with_a_healthcheck_health_counts() -> None:
    app = desired({"web": {"healthcheck": {"test": ("CMD", "true")}}})
    sick = failing(app, 6, "Unhealthy")
    assert ("CrashLoop", True) in holds(app, sick, NOW + 60, health=Health.STARTING)
    assert holds(app, sick, NOW + 60, health=Health.HEALTHY, healthy_at=NOW + 55) == [("CrashLoop", True)]
    assert holds(app, sick, NOW + 70, health=Health.HEALTHY, healthy_at=NOW + 55) == []


def test_a_start_that_fails_says_itself_why() -> None:
    app = desired({"web": {}})
    waiting = SlotHistory(digest(app), failures=7, at=NOW, not_before=NOW + 60, reason="NoSpace", message="disk full")
    plan = compute_plan(app, observed(app, slots={("web", 1): waiting}), NOW + 1)
    assert [hold.reason for hold in plan.holds] == ["NoSpace"]


def test_what_was_there_before_serves_on_and_is_not_what_runs_again() -> None:
    app = desired({"web": {}})
    seen = observed(app, container(None), slots={("web", 1): failing(app, 4)})
    (hold,) = compute_plan(app, seen, NOW + 0.1).holds
    assert hold.message.endswith("the one before it serves on")
    assert hold.reason == "BackOff"


def test_what_is_put_up_with_takes_nobodys_place_before_it_stayed_up() -> None:
    """Nor when the deploy that put up with it is final."""
    app = desired({"web": {}})
    elder, fresh = container(None, id="elder"), container(app, id="fresh", created=NOW, started=NOW)
    seen = observed(app, elder, fresh, slots={("web", 1): failing(app, 4)})
    plan = compute_plan(app, seen, NOW + 1)
    assert not plan.actions
    assert plan.next_check == NOW + 5
    (stop, *_) = compute_plan(app, seen, NOW + 5).ready_actions
    assert isinstance(stop, StopContainer)
    assert stop.container == "elder"
