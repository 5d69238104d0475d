"""Whatever happens to the host, no plan does harm, and when things calm down the plan ends up empty."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from plan_world import APP, World, end_some

from agent.plan.actions import (
    EnsureImage,
    Plan,
    RemoveContainer,
    RemoveNetwork,
    StartContainer,
    StopContainer,
)
from agent.plan.draft import SURGE
from agent.plan.history import ContainerExit
from agent.plan.observed import Health, ObservedContainer, Phase
from agent.spec.model import App
from tests.examples import examples

CONDITIONS = {
    "db": ("service_started", "service_healthy"),
    "job": ("service_started", "service_completed_successfully"),
}
replica_counts = st.integers(0, 4)
versions = st.integers(1, 3)


@st.composite
def apps(draw: Any) -> App:
    """An app of up to three services: db <- web, job <- web in all conditions; networks and volumes vary."""
    names = draw(st.sets(st.sampled_from(["db", "job", "web"]), min_size=0, max_size=3))
    services = {name: _draw_service(draw, name) for name in sorted(names)}
    if "web" in services:
        depends: dict[str, Any] = {}
        for other in sorted(names - {"web"}):
            if draw(st.booleans()):
                condition = draw(st.sampled_from(CONDITIONS[other]))
                depends[other] = {"condition": condition, "required": True, "restart": draw(st.booleans())}
        services["web"]["depends_on"] = depends
    return App.model_validate(
        {
            "name": APP,
            "file": "shop.yaml",
            "services": services,
            "networks": {"back": {"name": f"{APP}_back", "driver": "bridge", "internal": False, "labels": {}}},
            "volumes": {"data": {"name": f"{APP}_data", "driver": "local", "labels": {}}},
            "images": [],
        }
    )


def _draw_service(draw: Any, name: str) -> dict[str, Any]:
    job = name == "job"
    return {
        "name": name,
        "image": f"example/{name}:{draw(st.integers(1, 2))}",
        "pull_policy": draw(st.sampled_from(["missing", "always"])),
        "environment": {"VERSION": str(draw(versions))},
        "replicas": 1 if job else draw(replica_counts),
        "restart": {"condition": "on-failure" if job else "any"},
        "networks": {"back": ()} if draw(st.booleans()) else {"default": ()},
        "mounts": [{"kind": "volume", "source": "data", "target": "/data"}] if name == "db" else [],
    }


class HostMachine(RuleBasedStateMachine):
    """Random histories of one app on one host."""

    @initialize(app=apps(), checked=st.sets(st.just("web")))
    def begin(self, app: App, checked: set[str]) -> None:
        self.world = World(healthchecks={"db", *checked})
        self.strangers = {self.world.add_stranger("other", "web"): None, self.world.add_stranger("", "web"): None}
        self.strangers = {key: self.world.containers[key] for key in self.strangers}
        self.world.want(app)

    @rule(app=st.one_of(apps(), st.none()))
    def change_desired(self, app: App | None) -> None:
        self.world.want(app)

    @rule(replicas=replica_counts)
    def scale(self, replicas: int) -> None:
        desired = self.world.desired
        services = dict(desired.app.services) if desired else {}
        if desired and "db" in services:
            services["db"] = services["db"].model_copy(update={"replicas": replicas})
            self.world.want(desired.app.model_copy(update={"services": services}))

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """One pass of the loop: begin everything that can be, end some of it, well or not."""
        self.step()
        end_some(self.world, data)

    @rule(data=st.data(), code=st.sampled_from([0, 1, None]), lost=st.booleans())
    def crash(self, data: st.DataObject, code: int | None, lost: bool) -> None:
        mine = self.own(lambda container: container.phase in (Phase.RUNNING, Phase.STOPPING))
        if mine:
            victim = data.draw(st.sampled_from(mine))
            self.world.end(victim.id, ContainerExit(code), Phase.LOST if lost else Phase.EXITED)

    @rule(data=st.data(), health=st.sampled_from([Health.HEALTHY, Health.UNHEALTHY]))
    def probe(self, data: st.DataObject, health: Health) -> None:
        checked = self.own(lambda c: c.phase is Phase.RUNNING and c.health is not Health.NONE)
        if checked:
            self.world.set_health(data.draw(st.sampled_from(checked)).id, health)

    @rule(seconds=st.sampled_from([0.05, 1.0, 15.0, 400.0, -100.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(data=st.data())
    def kill_agent(self, data: st.DataObject) -> None:
        self.world.restart_agent(lambda _: data.draw(st.booleans()))

    @rule()
    def calm_down(self) -> None:
        """When nothing fails any more the host becomes what is desired, and the plan for that is empty."""
        jobs = frozenset({"job"})
        plan = self.world.settle(jobs)
        assert not plan.holds, plan.holds
        assert self.world.plan().actions == ()
        desired = self.world.desired
        digests = desired.digests(self.world.images) if desired else {}
        for name, service in desired.app.services.items() if desired else ():
            mine = self.own(lambda container, name=name: container.service == name)
            assert sorted(container.slot for container in mine) == list(range(1, service.replicas + 1))
            assert all(container.digest == digests[name] for container in mine)
            assert all(container.succeeded if name in jobs else container.ready for container in mine)
        if desired is None:
            assert not self.own(lambda _: True)
            assert not self.world.networks
        assert not desired or self.world.networks == set(desired.network_names.values())

    @invariant()
    def strangers_are_untouched(self) -> None:
        if hasattr(self, "world"):
            assert {key: self.world.containers.get(key) for key in self.strangers} == self.strangers

    def own(self, accept: Any) -> list[ObservedContainer]:
        return [c for c in self.world.containers.values() if c.app == APP and accept(c)]

    def step(self) -> None:
        seen = self.world.observe().containers
        plan = self.world.plan()
        self.check(plan, [container for container in seen if container.app == APP])
        volumes = set(self.world.volumes)
        self.world.begin(plan)
        assert volumes <= self.world.volumes

    def check(self, plan: Plan, seen: list[ObservedContainer]) -> None:
        identifiers = [action.id for action in plan.actions]
        assert len(set(identifiers)) == len(identifiers)
        assert all(before in identifiers for action in plan.actions for before in action.after)
        assert plan.next_check is None or plan.next_check > self.world.now
        mine = {container.id: container for container in seen}
        self.check_surge(plan, seen)
        stops = [action for action in plan.ready_actions if isinstance(action, StopContainer)]
        for action in stops:
            self.check_stop(action, mine, {stop.container for stop in stops})
        for action in plan.ready_actions:
            if isinstance(action, RemoveContainer):
                assert not mine[action.container].alive
            if isinstance(action, RemoveNetwork):
                assert all(action.name not in container.networks for container in seen)
            if isinstance(action, StartContainer):
                assert action.image
                assert action.digest
            if isinstance(action, EnsureImage):
                assert not self.world.images.get(action.key, None) or not self.world.images[action.key].current

    def replicas(self, service: str) -> int:
        desired = self.world.desired
        return desired.app.services[service].replicas if desired and service in desired.app.services else 0

    def check_surge(self, plan: Plan, seen: list[ObservedContainer]) -> None:
        starts = [action for action in plan.ready_actions if isinstance(action, StartContainer)]
        for service in {action.service for action in starts}:
            alive = sum(container.alive for container in seen if container.service == service)
            fresh = sum(action.service == service for action in starts)
            assert alive + fresh <= self.replicas(service) + SURGE
        assert len({(action.service, action.slot) for action in starts}) == len(starts)

    def check_stop(self, action: StopContainer, mine: dict[str, ObservedContainer], stopped: set[str]) -> None:
        victim = mine[action.container]
        if victim.phase is Phase.STOPPING or victim.slot > self.replicas(victim.service):
            return
        rest = [
            other
            for other in mine.values()
            if (other.service, other.slot) == (victim.service, victim.slot)
            and other.serving
            and other.id not in stopped
        ]
        assert rest, "stopped although nothing has taken its place"
        assert not victim.ready or any(other.ready for other in rest), "stopped before its replacement is ready"


HostMachine.TestCase.settings = settings(
    max_examples=examples(250),
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestHost = HostMachine.TestCase
