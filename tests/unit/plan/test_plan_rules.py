"""Each rule by itself: one situation, the plan it has to have, and the cause it has to give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plan_values import IMAGE, NOW, container, desired, digest, ended, images, observed

from agent.plan.actions import Plan, StartContainer, StopContainer
from agent.plan.history import SlotHistory, count_failed_start
from agent.plan.observed import Health, ImageState, Phase
from agent.plan.planner import compute_plan

AWAITED = {"job": {"condition": "service_completed_successfully"}}
HEALTHY = {"db": {"condition": "service_healthy"}}
STARTED = {"db": {"condition": "service_started"}}


def ids(plan: Plan) -> list[str]:
    """Action ids, starts without their spec and attempt."""
    return ["/".join(action.id.split("/")[:2]) for action in plan.actions]


def ready(plan: Plan) -> list[str]:
    return ["/".join(action.id.split("/")[:2]) for action in plan.ready_actions]


def causes(plan: Plan) -> set[str]:
    return {action.cause.kind for action in plan.actions}


def test_as_desired_means_no_plan() -> None:
    app = desired({"web": {"replicas": 2}})
    plan = compute_plan(app, observed(app, container(app, 1), container(app, 2)), NOW)
    assert plan == Plan("shop")


def test_first_plan_makes_everything_in_order() -> None:
    app = desired(
        {"web": {"replicas": 2, "mounts": [{"kind": "volume", "source": "data", "target": "/data"}]}},
    )
    plan = compute_plan(app, observed(app, images={}, networks=frozenset()), NOW)
    assert ids(plan) == [
        "image/missing:web:1",
        "network/shop_default",
        "volume/shop_data",
        "start/shop-web-1",
        "start/shop-web-2",
    ]
    assert ready(plan) == ids(plan)[:3]
    assert plan.actions[3].after == ("image/missing:web:1", "network/shop_default", "volume/shop_data")


def test_scale_up_starts_all_missing_at_once() -> None:
    app = desired({"web": {"replicas": 50}})
    plan = compute_plan(app, observed(app, container(app, 3)), NOW)
    assert len(plan.ready_actions) == 49
    assert causes(plan) == {"SlotEmpty"}


def test_scale_down_stops_what_is_not_ready_first_then_the_highest() -> None:
    app = desired({"web": {"replicas": 1}})
    sick = container(app, 3, health=Health.UNHEALTHY)
    plan = compute_plan(app, observed(app, container(app, 1), container(app, 2), sick, container(app, 4)), NOW)
    assert ready(plan) == ["stop/web3", "stop/web4", "stop/web2"]
    assert causes(plan) == {"ScaledDown"}


def test_replacement_is_started_first_and_one_at_a_time() -> None:
    app = desired({"web": {"replicas": 2}})
    old = [container(None, slot) for slot in (1, 2)]
    plan = compute_plan(app, observed(app, *old), NOW)
    assert ready(plan) == ["start/shop-web-1"]
    assert ids(plan) == [
        "start/shop-web-1",
        "stop/web1",
        "remove/web1",
        "start/shop-web-2",
        "stop/web2",
        "remove/web2",
    ]


def test_old_container_stays_until_its_replacement_is_ready() -> None:
    app = desired({"web": {}})
    new = container(app, 1, id="new", health=Health.STARTING)
    plan = compute_plan(app, observed(app, container(None, 1), new), NOW)
    assert plan.actions == ()
    assert [hold.reason for hold in plan.holds] == ["NotReady"]
    healthy = replace(new, health=Health.HEALTHY)
    assert ready(compute_plan(app, observed(app, container(None, 1), healthy), NOW)) == ["stop/web1"]


def test_cause_of_a_replacement_names_the_fields() -> None:
    before, after = (desired({"web": {"environment": {"COLOUR": colour}}}) for colour in ("red", "blue"))
    old = container(before, 1)
    seen = observed(after, old, documents={old.digest: before.document("web", IMAGE)})
    plan = compute_plan(after, seen, NOW)
    (change,) = plan.actions[0].cause.changes
    assert (change.path, change.old, change.new) == ("environment.COLOUR", '"red"', '"blue"')
    assert plan.actions[0].cause.kind == "SpecChanged"


def test_new_image_is_the_cause_by_itself() -> None:
    app = desired({"web": {}})
    fresh = images(app, id="sha256:" + "2" * 64)
    seen = observed(app, container(app), images=fresh, documents={digest(app): app.document("web", IMAGE)})
    assert compute_plan(app, seen, NOW).actions[0].cause.kind == "ImageChanged"


def test_restart_is_immediate_then_backs_off() -> None:
    app = desired({"web": {}})
    crashed = ended(app)
    plan = compute_plan(app, observed(app, crashed), NOW)
    assert ready(plan) == ["start/shop-web-1"]
    assert causes(plan) == {"ContainerExited"}
    again = replace(crashed, id="again", started=NOW - 1)
    second = compute_plan(app, observed(app, again, slots=plan.slots), NOW)
    assert second.ready_actions == ()
    assert second.next_check is not None
    assert 0.1 <= second.next_check - NOW <= 0.125
    assert second.holds[0].reason == "BackOff"
    later = compute_plan(app, observed(app, again, slots=second.slots), second.next_check)
    assert ready(later) == ["start/shop-web-1"]


def test_steady_run_resets_the_backoff() -> None:
    app = desired({"web": {}})
    tired = SlotHistory(digest(app), failures=9, attempts=9, restarts=9, at=NOW - 60)
    plan = compute_plan(app, observed(app, ended(app), slots={("web", 1): tired}), NOW)
    assert plan.slots["web", 1].failures == 1
    assert plan.slots["web", 1].restarts == 10
    assert ready(plan) == ["start/shop-web-1"]


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ({"condition": "any"}, 0, ["start/shop-web-1"]),
        ({"condition": "on-failure"}, 0, []),
        ({"condition": "on-failure"}, 1, ["start/shop-web-1"]),
        ({"condition": "on-failure"}, None, ["start/shop-web-1"]),
        ({"condition": "none"}, 0, []),
        ({"condition": "none"}, 1, []),
    ],
)
def test_restart_policy(policy: dict[str, Any], code: int | None, expected: list[str]) -> None:
    app = desired({"web": {"restart": policy}})
    assert ids(compute_plan(app, observed(app, ended(app, code=code)), NOW)) == expected


def test_on_failure_n_gives_up_after_n_restarts() -> None:
    app = desired({"web": {"restart": {"condition": "on-failure", "max_attempts": 2}}})
    slots: dict[Any, SlotHistory] = {}
    for attempt in range(2):
        plan = compute_plan(app, observed(app, ended(app, id=f"c{attempt}"), slots=slots), NOW + 1000)
        assert ready(plan) == ["start/shop-web-1"]
        slots = dict(plan.slots)
    plan = compute_plan(app, observed(app, ended(app, id="c2"), slots=slots), NOW + 1000)
    assert plan.actions == ()
    assert [(hold.reason, hold.final) for hold in plan.holds] == [("ContainerFailed", True)]


def test_ended_record_goes_when_its_replacement_runs() -> None:
    app = desired({"web": {}})
    plan = compute_plan(app, observed(app, ended(app, id="old"), container(app, created=NOW)), NOW)
    assert ready(plan) == ["remove/old"]


def test_finished_job_stays_as_a_record_and_runs_again_when_changed() -> None:
    app = desired({"job": {}, "web": {"depends_on": AWAITED}})
    done = ended(app, service="job", code=0)
    assert ready(compute_plan(app, observed(app, done), NOW)) == ["start/shop-web-1"]
    changed = desired({"job": {"command": ["other"]}, "web": {"depends_on": AWAITED}})
    plan = compute_plan(changed, observed(changed, replace(done, id="done")), NOW)
    assert ready(plan) == ["start/shop-job-1"]


def test_unhealthy_container_is_replaced_at_once_then_with_backoff() -> None:
    app = desired({"web": {}})
    sick = container(app, health=Health.UNHEALTHY, healthy_at=NOW - 30)
    plan = compute_plan(app, observed(app, sick), NOW)
    assert ready(plan) == ["start/shop-web-1"]
    assert causes(plan) == {"Unhealthy"}
    second = container(app, id="second", created=NOW, started=NOW, health=Health.UNHEALTHY)
    plan = compute_plan(app, observed(app, sick, second, slots=plan.slots), NOW)
    assert ready(plan) == ["stop/second"]
    plan = compute_plan(app, observed(app, sick, slots=plan.slots), NOW)
    assert plan.ready_actions == ()
    assert plan.next_check is not None


@pytest.mark.parametrize(
    ("dependency", "state", "expected"),
    [
        (STARTED, {"phase": Phase.RUNNING, "health": Health.STARTING}, True),
        (HEALTHY, {"phase": Phase.RUNNING, "health": Health.STARTING}, False),
        (HEALTHY, {"phase": Phase.RUNNING, "health": Health.HEALTHY}, True),
        (HEALTHY, {"phase": Phase.RUNNING, "health": Health.NONE}, False),
        (STARTED, {"phase": Phase.PENDING}, False),
    ],
)
def test_depends_on_holds_the_first_start(dependency: Any, state: dict[str, Any], expected: bool) -> None:
    app = desired({"db": {}, "web": {"depends_on": dependency}})
    plan = compute_plan(app, observed(app, container(app, service="db", **state)), NOW)
    assert ready(plan) == (["start/shop-web-1"] if expected else [])
    assert bool(plan.holds) is not expected or dependency is STARTED


def test_health_that_is_never_checked_is_said_and_not_awaited_where_it_is_optional() -> None:
    app = desired({"db": {}, "web": {"depends_on": HEALTHY}})
    db = container(app, service="db")
    (hold,) = compute_plan(app, observed(app, db), NOW).holds
    assert (hold.reason, hold.service, hold.final, hold.failing) == ("NoHealthcheck", "web", True, True)
    assert "neither db nor its image has a healthcheck" in hold.message
    old = replace(db, digest="sha256:old")
    assert "NoHealthcheck" not in {hold.reason for hold in compute_plan(app, observed(app, old), NOW).holds}
    optional = desired({"db": {}, "web": {"depends_on": {"db": {**HEALTHY["db"], "required": False}}}})
    assert ready(compute_plan(optional, observed(optional, db), NOW)) == ["start/shop-web-1"]


def test_depends_on_does_not_hold_a_restart() -> None:
    app = desired({"db": {}, "web": {"depends_on": HEALTHY}})
    db = container(app, service="db", health=Health.STARTING)
    assert ready(compute_plan(app, observed(app, db, ended(app)), NOW)) == ["start/shop-web-1"]


def test_lost_containers_come_back_in_order() -> None:
    app = desired({"db": {}, "web": {"depends_on": STARTED}})
    lost = [ended(app, service=name, phase=Phase.LOST, code=None) for name in ("db", "web")]
    plan = compute_plan(app, observed(app, *lost), NOW)
    assert ready(plan) == ["start/shop-db-1"]
    assert ids(plan) == ["start/shop-db-1", "start/shop-web-1"]


def test_optional_dependency_that_failed_holds_nobody() -> None:
    depends = {"job": {"condition": "service_completed_successfully", "required": False}}
    app = desired({"job": {"restart": {"condition": "none"}}, "web": {"depends_on": depends}})
    assert ready(compute_plan(app, observed(app, ended(app, service="job")), NOW)) == ["start/shop-web-1"]


def test_restart_with_a_dependency_is_part_of_the_spec() -> None:
    depends = {"db": {"condition": "service_started", "restart": True}}
    before = desired({"db": {}, "web": {"depends_on": depends}})
    after = desired({"db": {"command": ["other"]}, "web": {"depends_on": depends}})
    assert digest(before, "web") != digest(after, "web")


def test_failed_image_holds_only_its_own_service() -> None:
    app = desired({"bad": {}, "web": {}})
    states = {**images(app), "missing:bad:1": ImageState(stalled=True, reason="ImageNotFound", message="no such image")}
    plan = compute_plan(app, observed(app, images=states), NOW)
    assert ready(plan) == ["start/shop-web-1"]
    assert ("ImageNotFound", True) in {(hold.reason, hold.final) for hold in plan.holds}
    assert plan.next_check is None


def test_failed_pull_is_tried_again_in_time() -> None:
    app = desired({"web": {}})
    states = {"missing:web:1": ImageState(retry_at=NOW + 7, reason="RegistryUnreachable")}
    plan = compute_plan(app, observed(app, images=states), NOW)
    assert plan.actions == ()
    assert plan.next_check == NOW + 7
    assert ready(compute_plan(app, observed(app, images=states), NOW + 7)) == ["image/missing:web:1"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such image", "image web:1: no such image; next attempt in 7.0 s"),
        ("host does not have the image web:1", "host does not have the image web:1; next attempt in 7.0 s"),
        ("RUN false: exit code 1\ncompiling", "image web:1: RUN false: exit code 1\ncompiling\nnext attempt in 7.0 s"),
    ],
)
def test_an_image_that_cannot_be_had_is_named_once(said: str, told: str) -> None:
    app = desired({"web": {}})
    states = {"missing:web:1": ImageState(retry_at=NOW + 7, reason="ImageNotFound", message=said)}
    assert compute_plan(app, observed(app, images=states), NOW).holds[0].message == told


def test_crash_is_healed_from_the_old_spec_while_the_new_image_is_not_there() -> None:
    app = desired({"web": {}})
    crashed = replace(ended(app), digest="sha256:old", image="sha256:oldimage")
    states = {"missing:web:1": ImageState(retry_at=NOW + 7)}
    (start,) = compute_plan(app, observed(app, crashed, images=states), NOW).ready_actions
    assert isinstance(start, StartContainer)
    assert (start.template, start.digest) == ("web1", "sha256:old")


def test_failed_start_stalls_until_the_spec_changes() -> None:
    app = desired({"web": {}})
    history = count_failed_start(SlotHistory(), digest(app), NOW, ("NoCommand", "names no command", None))
    plan = compute_plan(app, observed(app, slots={("web", 1): history}), NOW)
    assert plan.actions == ()
    assert plan.holds[0].final
    changed = desired({"web": {"command": ["sleep"]}})
    plan = compute_plan(changed, observed(changed, slots={("web", 1): history}), NOW)
    assert ready(plan) == ["start/shop-web-1"]


def test_broken_update_stops_at_the_first_slot() -> None:
    app = desired({"web": {"replicas": 3}})
    crashed = ended(app, 1, id="new", started=NOW)
    tried = {("web", 1): SlotHistory(digest(app), failures=5, attempts=5, at=NOW, counted=("new",))}
    old = [container(None, slot) for slot in (1, 2, 3)]
    plan = compute_plan(app, observed(app, *old, crashed, slots=tried), NOW)
    assert plan.actions == ()
    assert plan.next_check is not None


def test_removed_app_goes_whole_but_for_its_volumes() -> None:
    seen = observed(None, container(None, 1), container(None, 2, phase=Phase.EXITED), volumes=frozenset({"shop_data"}))
    plan = compute_plan(None, seen, NOW)
    assert ids(plan) == ["stop/web1", "remove/web1", "remove/web2", "unnetwork/shop_default"]
    assert ready(plan) == ["stop/web1", "remove/web2"]
    assert causes(plan) == {"AppRemoved", "NetworkUnused"}


def test_network_goes_after_its_last_container() -> None:
    app = desired({"web": {}})
    plan = compute_plan(app, observed(app, container(app), networks=frozenset({"shop_default", "shop_old"})), NOW)
    assert ready(plan) == ["unnetwork/shop_old"]
    old = container(app, networks=frozenset({"shop_old"}))
    plan = compute_plan(app, observed(app, old, networks=frozenset({"shop_default", "shop_old"})), NOW)
    assert plan.actions == ()


def test_others_are_not_touched() -> None:
    app = desired({"web": {}})
    others = [container(None, slot, id=f"other{slot}", app=owner) for slot, owner in ((1, "other"), (2, ""))]
    plan = compute_plan(app, observed(app, container(app), *others), NOW)
    assert plan.actions == ()
    assert compute_plan(None, observed(None, *others, networks=frozenset()), NOW).actions == ()


def test_begun_stop_is_seen_through() -> None:
    app = desired({"web": {}})
    plan = compute_plan(app, observed(app, container(app, phase=Phase.STOPPING)), NOW)
    stops = [action for action in plan.ready_actions if isinstance(action, StopContainer)]
    assert [stop.container for stop in stops] == ["web1"]
    assert "start/shop-web-1" in ready(plan)


def test_policy_always_holds_new_containers_until_resolved_but_not_restarts() -> None:
    app = desired({"web": {"pull_policy": "always", "replicas": 2}})
    stale = images(app, current=False)
    plan = compute_plan(app, observed(app, ended(app, 1), images=stale), NOW)
    assert ready(plan) == ["image/always:web:1", "start/shop-web-1"]


def test_image_is_looked_up_again_when_its_time_is_up_and_nothing_waits_for_it() -> None:
    app = desired({"web": {"pull_policy": "every_3600s", "replicas": 2}})
    waiting = compute_plan(app, observed(app, container(app), images=images(app, due=NOW + 50)), NOW)
    assert (ready(waiting), waiting.next_check) == (["start/shop-web-2"], NOW + 50)
    due = compute_plan(app, observed(app, container(app), images=images(app, due=NOW)), NOW)
    assert ready(due) == [f"image/every_3600s:web:1@{NOW:.3f}", "start/shop-web-2"]
    assert "ImageDue" in causes(due)
    assert due.holds == ()


def test_one_tag_is_one_image_in_the_whole_app() -> None:
    """Services with different policies never run two versions of a tag: the most eager policy decides."""
    services = {
        name: {"image": "shared:1", "pull_policy": policy}
        for name, policy in (("a", "never"), ("b", "every_600s"), ("c", "missing"), ("d", "every_60s"))
    }
    app = desired({**services, "e": {"image": "shared:1", "platform": "linux/arm64"}})
    assert sorted(app.images) == ["every_60s:shared:1", "missing:shared:1 linux/arm64"]
    assert {app.image_keys[name] for name in "abcd"} == {"every_60s:shared:1"}
    kept = desired({"a": {"image": "kept:1"}}, images=[{"reference": "kept:1", "pull_policy": "always"}])
    assert kept.image_keys["a"] == "always:kept:1"


def test_clock_set_back_does_not_hold_a_restart() -> None:
    app = desired({"web": {}})
    history = {("web", 1): SlotHistory(digest(app), failures=12, at=NOW + 3600, counted=("web1",))}
    assert ready(compute_plan(app, observed(app, ended(app), slots=history), NOW)) == ["start/shop-web-1"]


def test_stopping_containers_count_until_they_have_ended() -> None:
    app = desired({"web": {"replicas": 3}})
    stopping = [container(app, slot, phase=Phase.STOPPING) for slot in (1, 2, 3)]
    assert ready(compute_plan(app, observed(app, *stopping), NOW))[3:] == ["start/shop-web-1"]


def test_next_replacement_waits_until_the_last_one_has_stopped() -> None:
    app = desired({"web": {"replicas": 2}})
    replaced = [container(None, 1, phase=Phase.STOPPING), container(app, 1, id="new")]
    plan = compute_plan(app, observed(app, *replaced, container(None, 2)), NOW)
    assert ready(plan) == ["stop/web1"]
    assert [hold.reason for hold in plan.holds] == ["Replacing"]
