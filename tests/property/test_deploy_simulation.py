"""Whatever happens while a revision takes the place of another, the host ends up with all of one of them."""

from __future__ import annotations

from typing import Any

from deploy_world import DeployWorld
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from plan_world import APP, end_some

from agent.controller.deploy.aims import find_changed
from agent.plan.actions import Plan, RemoveContainer, StartContainer, StopContainer
from agent.plan.deploy import Stage
from agent.plan.history import ContainerExit
from agent.plan.observed import ObservedContainer, Phase
from agent.plan.pace import compute_update, why_stop_first
from agent.plan.reservations import compute_peak
from agent.spec.model import App, Service, UpdateConfig

ROUNDS = 100
STARTS = 40
FAULTS = ("", "", "crash", "sick")
configs = st.builds(
    UpdateConfig,
    parallelism=st.integers(0, 3),
    delay=st.sampled_from([0.0, 0.0, 3.0]),
    failure_action=st.sampled_from(["rollback", "rollback", "rollback", "pause", "continue"]),
    monitor=st.sampled_from([0.0, 5.0]),
    max_failure_ratio=st.sampled_from([0.0, 0.0, 0.5]),
    order=st.sampled_from([None, "start-first", "stop-first"]),
)


@st.composite
def apps(draw: Any, faults: tuple[str, ...] = FAULTS) -> App:
    """An app of up to three services, db <- web and job <- web, of which any may be of a kind that fails."""
    names = draw(st.sets(st.sampled_from(["db", "job", "web"]), min_size=1, max_size=3))
    services = {name: _draw_service(draw, name, faults) for name in sorted(names)}
    if "web" in services:
        conditions = {"db": "service_healthy", "job": "service_completed_successfully"}
        services["web"]["depends_on"] = {
            other: {"condition": conditions[other], "required": True, "restart": draw(st.booleans())}
            for other in sorted(names - {"web"})
            if draw(st.booleans())
        }
    networks = {"back": {"name": f"{APP}_back", "driver": "bridge", "internal": False, "labels": {}}}
    document = {"name": APP, "file": "shop.yaml", "services": services, "networks": networks, "volumes": {}}
    return App.model_validate({**document, "images": []})


def _draw_service(draw: Any, name: str, faults: tuple[str, ...]) -> dict[str, Any]:
    job = name == "job"
    fault = draw(st.sampled_from(faults))
    canary = draw(st.sampled_from([None, None, {"steps": (0.25, 0.5), "pause": 4.0}]))
    return {
        "name": name,
        "image": f"example/{name}:{draw(st.integers(1, 2))}",
        "pull_policy": draw(st.sampled_from(["missing", "always"])),
        "environment": {"VERSION": str(draw(st.integers(1, 3))), **({"FAULT": fault} if fault else {})},
        "replicas": 1 if job else draw(st.integers(0, 4)),
        "restart": {"condition": "on-failure" if job else "any", "max_attempts": 2 if job else None},
        "networks": {"back": ()} if draw(st.booleans()) else {"default": ()},
        "mounts": [{"kind": "volume", "source": "data", "target": "/data"}] if name == "db" else [],
        "update": draw(configs).model_dump(),
        "rollback": draw(configs).model_copy(update={"failure_action": "continue"}).model_dump(),
        "canary": canary,
        "deadline": draw(st.sampled_from([60.0, 600.0])),
    }


class DeployMachine(RuleBasedStateMachine):
    """Random histories of one app whose desired state changes, with failures, kills of the agent and clock jumps."""

    @initialize(app=apps(("",)))
    def begin(self, app: App) -> None:
        self.world = DeployWorld(healthchecks={"db"})
        self.strangers = {self.world.add_stranger("other", "web"), self.world.add_stranger("", "db")}
        self.seen = {key: self.world.containers[key] for key in self.strangers}
        self.world.want(app)
        self.calm_down()

    @rule(app=st.one_of(apps(), apps(), apps(), st.none()))
    def change_desired(self, app: App | None) -> None:
        self.world.want(app)

    @rule(data=st.data(), calmly=st.booleans())
    def change_a_service(self, data: st.DataObject, calmly: bool) -> None:
        """Another version of one of them; ``calmly`` when nothing else is under way."""
        desired = self.world.desired
        if calmly:
            self.calm_down()
        for name in sorted(desired.app.services) if desired else ():
            if data.draw(st.booleans()):
                fault = data.draw(st.sampled_from(FAULTS))
                marks = {"VERSION": str(data.draw(st.integers(1, 9))), **({"FAULT": fault} if fault else {})}
                changed = desired.app.services[name].model_copy(
                    update={
                        "environment": marks,
                        "update": data.draw(configs),
                        "replicas": self.draw_replicas(data, name),
                    }
                )
                app = desired.app.model_copy(update={"services": {**desired.app.services, name: changed}})
                self.world.want(app)

    def draw_replicas(self, data: st.DataObject, name: str) -> int:
        return 1 if name == "job" else data.draw(st.integers(1, 4))

    @rule(number=st.integers(0, 9))
    def go_to_an_earlier_one(self, number: int) -> None:
        known = self.world.deploys.revisions.all
        if known:
            self.world.want(known[number % len(known)].desired.app)

    @rule()
    def move_tags(self) -> None:
        self.world.move_tags()

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        plan = self.world.plan()
        self.check(plan)
        self.world.begin(plan)
        end_some(self.world, data)

    @rule(times=st.integers(1, 12))
    def live_on(self, times: int) -> None:
        self.world.go_on(times, self.check)

    @rule(data=st.data(), code=st.sampled_from([0, 1, None]))
    def crash(self, data: st.DataObject, code: int | None) -> None:
        mine = [container for container in self.own() if container.phase in (Phase.RUNNING, Phase.STOPPING)]
        if mine:
            self.world.end(data.draw(st.sampled_from(mine)).id, ContainerExit(code))

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 15.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(seconds=st.sampled_from([-5.0, -3600.0, -1e6, 3600.0, 1e6]))
    def set_clock(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(data=st.data(), planned=st.booleans())
    def kill_agent(self, data: st.DataObject, planned: bool) -> None:
        if planned:
            self.world.plan()
        self.world.restart_agent(lambda _: data.draw(st.booleans()))

    @rule()
    def calm_down(self) -> None:
        """When nothing is done to the host any more, every deploy ends, and all of exactly one revision is there."""
        self.world.forgive()
        before = len(self.world.started)
        ended = self.world.go_on(ROUNDS, self.check)
        deploys, desired = self.world.deploys, self.world.desired
        if desired is None:
            assert ended
            assert not self.own()
            return
        assert deploys.deploy is None or deploys.deploy.stage is Stage.PAUSED or self.may_try_forever(), (
            deploys.deploy,
            self.world.planning.aim.holds,
        )
        if deploys.deploy is None and ended:
            self.check_whole()
        if ended:
            assert len(self.world.started) - before < STARTS, "a storm of starts"
            assert self.world.plan().actions == ()

    def may_try_forever(self) -> bool:
        """Whether what is being deployed fails, and either nothing was there before or it is to go on all the same."""
        deploy, aim = self.world.deploys.deploy, self.world.planning.aim.desired
        assert deploy is not None
        assert aim is not None
        faulty = [name for name, service in aim.app.services.items() if service.environment.get("FAULT")]
        if not deploy.base or self.world.planning.aim.course.reverting:
            return bool(faulty)
        needed = {name for service in aim.app.services.values() for name in service.depends_on}
        return self.base_is_faulty() or bool(needed & {*faulty})

    def base_is_faulty(self) -> bool:
        base = self.world.base
        return base is not None and any(service.environment.get("FAULT") for service in base.app.services.values())

    def check_whole(self) -> None:
        deploys = self.world.deploys
        force = deploys.revisions.find(deploys.base)
        assert force is not None
        wanted = force.desired.app.services
        for container in self.own():
            assert container.service in wanted, "left over from another revision"
            assert container.slot <= wanted[container.service].replicas
        for name, service in wanted.items():
            found = [container for container in self.own() if container.service == name]
            if name == "job":
                assert len(found) == 1
                continue
            if service.environment.get("FAULT"):
                continue
            assert sorted(container.slot for container in found) == [*range(1, service.replicas + 1)]
            assert all(container.digest == force.digests[name] and container.ready for container in found)

    @invariant()
    def strangers_are_untouched(self) -> None:
        if hasattr(self, "world"):
            assert {key: self.world.containers.get(key) for key in self.strangers} == self.seen

    def own(self) -> list[ObservedContainer]:
        return [container for container in self.world.containers.values() if container.app == APP]

    # what every plan must keep

    def check(self, plan: Plan) -> None:
        ready = plan.ready_actions
        stops = [action for action in ready if isinstance(action, StopContainer)]
        starts = [action for action in ready if isinstance(action, StartContainer)]
        seen = {c.id: c for c in self.world.observe().containers if c.app == APP}
        for action in ready:
            if isinstance(action, StopContainer | RemoveContainer):
                assert action.container in seen, "not ours"
        aim = self.world.planning.aim
        services = aim.desired.app.services if aim.desired is not None else {}
        for name in {action.service for action in stops}:
            if name in services:
                self.check_stops(services[name], [seen[a.container] for a in stops if a.service == name], seen)
            else:
                assert self.world.deploys.deploy is None or aim.course.reverting or not aim.course.deploying
        for name in {action.service for action in starts}:
            mine = [action for action in starts if action.service == name]
            self.check_starts(services[name], mine, seen)
            self.check_reserved(name, mine, seen)

    def check_stops(self, service: Service, stopped: list[ObservedContainer], seen: Any) -> None:
        """What is ready in a slot is stopped when another there is, or as many at a time as the service allows."""
        config = compute_update(service, reverting=self.world.planning.aim.course.reverting)
        victims = {c.id for c in stopped}
        mine = [c for c in seen.values() if c.service == service.name and c.slot <= service.replicas]
        rest = {c.slot for c in mine if c.ready and c.id not in victims}
        lost = {c.slot for c in stopped if c.ready and c.slot <= service.replicas} - rest
        if not lost:
            return
        assert why_stop_first(service, config), "stopped before its replacement is ready"
        down = set(range(1, service.replicas + 1)) - rest
        tolerated = {c.slot for c in mine} - rest - lost if config.failure_action == "continue" else set()
        limit = (config.parallelism or service.replicas) + max(
            len(tolerated), config.max_failure_ratio * service.replicas
        )
        assert len(down) <= limit, "more at a time than its parallelism"

    def check_starts(self, service: Service, starts: list[StartContainer], seen: Any) -> None:
        aim = self.world.planning.aim
        config = compute_update(service, reverting=aim.course.reverting)
        mine = [c for c in seen.values() if c.service == service.name]
        room = service.replicas + max(1, config.parallelism or service.replicas)
        assert sum(c.alive for c in mine) + len(starts) <= room, "more alive than its surge allows"
        for action in starts if service.name == "job" and not aim.course.may_run_again("job") else ():
            assert action.digest not in self.world.completed, "a job that has completed is run again by going back"

    def check_reserved(self, name: str, starts: list[StartContainer], seen: Any) -> None:
        """No more memory is reserved than was said before the deploy began, but for one container that heals."""
        deploy, course = self.world.deploys.deploy, self.world.planning.aim.course
        newer, older = self.world.deploys.revisions.find(self.world.deploys.current), self.world.deploys.in_force
        if deploy is None or newer is None or older is None or course.reverting:
            return
        old, new = older.digests.get(name), newer.digests.get(name)
        mine = [c for c in seen.values() if c.service == name and c.alive and not c.draining]
        digests = [c.digest for c in mine] + [start.digest for start in starts]
        if not set(digests) <= {old, new}:
            return
        for each in ({old: 3, new: 1}, {old: 1, new: 3}):
            apps = [_reserve(one.desired.app, each.get(one.digests.get(name), 0)) for one in (newer, older)]
            peak = compute_peak(*apps, find_changed(newer, older), lambda service: len(mine))
            most = sum(one.total for one in peak if one.service == name)
            assert sum(each[digest] for digest in digests) <= most + max(each.values()), "more than was looked for"


def _reserve(app: App, each: int) -> App:
    services = {key: one.model_copy(update={"memory_reservation": each}) for key, one in app.services.items()}
    return app.model_copy(update={"services": services})


DeployMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TestDeploys = DeployMachine.TestCase
