"""The planner answers everything: whatever it is given, there is a plan, and it names only what it was shown."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.plan.actions import Plan, RemoveContainer, StopContainer
from agent.plan.history import ContainerExit, SlotHistory
from agent.plan.observed import Health, ImageState, ObservedApp, ObservedContainer, Phase
from agent.plan.planner import compute_plan
from agent.plan.wants import DesiredApp
from agent.spec.model import App, Dependency, ImagePolicy, RestartPolicy, Service
from tests.examples import examples

names = st.sampled_from(["a", "b", "c"])
digests = st.sampled_from(["", "sha256:x", "sha256:y"])
times = st.floats(-1e12, 1e12, allow_nan=False)
exits = st.none() | st.builds(
    ContainerExit, st.none() | st.integers(0, 255), st.none() | st.integers(1, 64), st.booleans(), times
)
containers = st.builds(
    ObservedContainer,
    id=st.sampled_from([f"c{number}" for number in range(9)]),
    app=st.sampled_from(["shop", "other", ""]),
    service=names,
    slot=st.integers(-1, 5),
    digest=digests,
    phase=st.sampled_from(Phase),
    health=st.sampled_from(Health),
    image=digests,
    created=times,
    started=times,
    healthy_at=times,
    exit=exits,
    networks=st.frozensets(names),
)
histories = st.builds(
    SlotHistory,
    digest=digests,
    failures=st.integers(-1, 10**6),
    attempts=st.integers(-1, 10**6),
    at=times,
    counted=st.lists(st.sampled_from(["c0", "c1", "zz"]), max_size=3).map(tuple),
    exit=exits,
    not_before=times,
    stalled=st.booleans(),
)
states = st.builds(ImageState, st.none() | digests, st.booleans(), times, st.booleans())
services = st.builds(
    Service,
    name=names,
    image=st.sampled_from(["i:1", "i:2"]),
    replicas=st.integers(-2, 5),
    pull_policy=st.sampled_from(["missing", "always", "never", "odd"]),
    networks=st.dictionaries(names, st.just(())),
    depends_on=st.dictionaries(
        st.sampled_from(["a", "b", "c", "nobody"]),
        st.builds(
            Dependency,
            condition=st.sampled_from(["service_started", "service_healthy", "service_completed_successfully"]),
            required=st.booleans(),
            restart=st.booleans(),
        ),
    ),
    restart=st.builds(
        RestartPolicy,
        condition=st.sampled_from(["none", "on-failure", "any"]),
        max_attempts=st.none() | st.integers(0, 3),
        window=st.none() | st.floats(0, 100),
    ),
)
apps = st.dictionaries(names, services, max_size=3).map(
    lambda found: App(
        name="shop",
        file="f",
        services={name: service.model_copy(update={"name": name}) for name, service in found.items()},
        images=(ImagePolicy(reference="kept:1"),),
    )
)
keys = st.sampled_from(["missing:i:1", "missing:i:2", "always:i:1", "never:i:1", "missing:kept:1"])
worlds = st.builds(
    ObservedApp,
    name=st.just("shop"),
    containers=st.lists(containers, max_size=8, unique_by=lambda container: container.id).map(tuple),
    images=st.dictionaries(keys, states),
    networks=st.frozensets(names),
    volumes=st.frozensets(names),
    slots=st.dictionaries(st.tuples(names, st.integers(-1, 5)), histories),
    documents=st.dictionaries(digests, st.sampled_from(["", "{", "{}", "[1]", '{"image": 2}'])),
)


@settings(max_examples=examples(600), deadline=None, database=None)
@given(app=st.none() | apps, world=worlds, now=times)
def test_every_world_has_a_plan(app: App | None, world: ObservedApp, now: float) -> None:
    desired = DesiredApp(app, "r") if app is not None else None
    plan = compute_plan(desired, world, now)
    assert isinstance(plan, Plan)
    assert plan.next_check is None or plan.next_check > now
    mine = {container.id for container in world.containers if container.app == "shop"}
    touched = {action.container for action in plan.actions if isinstance(action, StopContainer | RemoveContainer)}
    assert touched <= mine
    identifiers = [action.id for action in plan.actions]
    assert len(set(identifiers)) == len(identifiers)
    assert {before for action in plan.actions for before in action.after} <= set(identifiers)
    assert compute_plan(desired, world, now) == plan
