"""A host in memory that carries out plans: with slow actions, failures, crashes and a clock that tests move."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from agent.oci.digest import compute_digest
from agent.plan.actions import (
    Action,
    EnsureImage,
    EnsureNetwork,
    EnsureVolume,
    Plan,
    RemoveContainer,
    RemoveNetwork,
    StartContainer,
    StopContainer,
)
from agent.plan.history import ContainerExit, SlotHistory, count_failed_start, forgive
from agent.plan.observed import Health, ImageState, ObservedApp, ObservedContainer, Phase, SlotKey
from agent.plan.planner import compute_plan
from agent.plan.wants import DesiredApp, networks_of
from agent.spec.model import App

APP = "shop"
IMAGE_ID = "sha256:" + "a" * 64


@dataclass
class World:
    """One host with one app of ours and containers of others."""

    desired: DesiredApp | None = None
    now: float = 1000.0
    containers: dict[str, ObservedContainer] = field(default_factory=dict)
    images: dict[str, ImageState] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)
    volumes: set[str] = field(default_factory=set)
    slots: dict[SlotKey, SlotHistory] = field(default_factory=dict)
    running: dict[str, Action] = field(default_factory=dict)
    numbers: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    healthchecks: set[str] = field(default_factory=set)
    generation: int = 0

    def want(self, app: App | None) -> None:
        self.generation += 1
        self.desired = DesiredApp(app, str(self.generation)) if app is not None else None
        self.slots = {key: replace(history, stalled=False) for key, history in self.slots.items()}
        local = {key: state.id for key, state in self.images.items() if state.id}
        wants = self.desired.images if self.desired else {}
        self.images = {
            key: ImageState(local.get(key), current=key in local and want.policy == "missing")
            for key, want in wants.items()
        }

    def add_stranger(self, app: str, service: str) -> str:
        identifier = f"stranger-{next(iter(self.numbers))}"
        self.containers[identifier] = ObservedContainer(
            identifier, app, service, 1, "sha256:other", Phase.RUNNING, created=self.now, started=self.now
        )
        return identifier

    def observe(self) -> ObservedApp:
        pending = [
            ObservedContainer(
                f"pending-{action.id}", APP, action.service, action.slot, action.digest, Phase.PENDING, created=self.now
            )
            for action in self.running.values()
            if isinstance(action, StartContainer)
        ]
        stopping = {action.container for action in self.running.values() if isinstance(action, StopContainer)}
        seen = [
            replace(container, phase=Phase.STOPPING)
            if container.id in stopping and container.phase is Phase.RUNNING
            else container
            for container in self.containers.values()
        ]
        return ObservedApp(
            APP, (*seen, *pending), self.images, frozenset(self.networks), frozenset(self.volumes), self.slots
        )

    def plan(self) -> Plan:
        plan = compute_plan(self.desired, self.observe(), self.now)
        self.slots = dict(plan.slots)
        return plan

    def begin(self, plan: Plan) -> list[Action]:
        busy = {_resource(action) for action in self.running.values()}
        fresh = [action for action in plan.ready_actions if _resource(action) not in busy]
        self.running.update({action.id: action for action in fresh})
        return fresh

    def finish(self, action: Action) -> None:
        """The action succeeds."""
        self.running.pop(action.id, None)
        match action:
            case EnsureImage():
                if self.desired and action.key in self.desired.images:
                    known = self.images.get(action.key, ImageState()).id
                    self.images[action.key] = ImageState(known or _image_id(action.key), current=True)
            case EnsureNetwork():
                self.networks.add(action.name)
            case EnsureVolume():
                self.volumes.add(action.name)
            case StartContainer():
                self._create(action)
            case StopContainer():
                self.end(action.container, ContainerExit(None, 15, at=self.now))
            case RemoveContainer():
                found = self.containers.get(action.container)
                assert found is None or not found.alive, "removed while alive"
                self.containers.pop(action.container, None)
            case RemoveNetwork():
                self.networks.discard(action.name)

    def fail(self, action: Action, retry_after: float | None) -> None:
        """The action fails; nothing of it is left."""
        self.running.pop(action.id, None)
        if isinstance(action, EnsureImage) and self.desired and action.key in self.desired.images:
            state = self.images.get(action.key, ImageState())
            stalled = retry_after is None
            self.images[action.key] = replace(
                state, current=False, stalled=stalled, retry_at=self.now + (retry_after or 0.0), reason="PullFailed"
            )
        if isinstance(action, StartContainer):
            key = (action.service, action.slot)
            history = self.slots.get(key, SlotHistory())
            error = ("StartFailed", "cannot start", retry_after)
            self.slots[key] = count_failed_start(history, action.digest, self.now, error)

    def _create(self, action: StartContainer) -> None:
        identifier = f"c{next(iter(self.numbers)):06d}"
        networks: frozenset[str] = frozenset()
        if self.desired and action.service in self.desired.app.services:
            service = self.desired.app.services[action.service]
            networks = frozenset(self.desired.network(key).name for key in networks_of(service))
        self.containers[identifier] = ObservedContainer(
            identifier,
            APP,
            action.service,
            action.slot,
            action.digest,
            Phase.RUNNING,
            Health.STARTING if action.service in self.healthchecks else Health.NONE,
            action.image,
            created=self.now,
            started=self.now,
            networks=networks,
        )

    def end(self, identifier: str, how: ContainerExit, phase: Phase = Phase.EXITED) -> None:
        found = self.containers.get(identifier)
        if found is not None and found.alive:
            self.containers[identifier] = replace(found, phase=phase, exit=replace(how, at=self.now))

    def set_health(self, identifier: str, health: Health) -> None:
        found = self.containers[identifier]
        healthy_at = found.healthy_at or (self.now if health is Health.HEALTHY else 0.0)
        self.containers[identifier] = replace(found, health=health, healthy_at=healthy_at)

    def restart_agent(self, completed: Callable[[Action], bool]) -> None:
        """The agent is killed: what was under way was done or not, and nobody knows."""
        for action in [*self.running.values()]:
            if isinstance(action, StopContainer):
                found = self.containers.get(action.container)
                if found is not None and found.phase is Phase.RUNNING:
                    self.containers[found.id] = replace(found, phase=Phase.STOPPING)
                self.running.pop(action.id)
            elif completed(action):
                self.finish(action)
            else:
                self.running.pop(action.id)

    def forgive(self) -> None:
        self.slots = {key: forgive(history) for key, history in self.slots.items()}
        self.images = {key: replace(state, stalled=False, retry_at=0.0) for key, state in self.images.items()}

    def settle(self, jobs: frozenset[str] = frozenset(), rounds: int = 400) -> Plan:
        """Everything succeeds from now on; carry out plans until one is empty. Fails if that does not happen."""
        self.forgive()
        for _ in range(rounds):
            for action in [*self.running.values()]:
                self.finish(action)
            for container in [*self.containers.values()]:
                if container.app != APP or container.phase is not Phase.RUNNING:
                    continue
                if container.service in jobs:
                    self.end(container.id, ContainerExit(0))
                elif container.health is Health.STARTING:
                    self.set_health(container.id, Health.HEALTHY)
            plan = self.plan()
            self.begin(plan)
            if not self.running and not plan.actions and plan.next_check is None:
                return plan
            if not self.running and plan.next_check is not None:
                assert plan.next_check > self.now, "a check in the past would make the loop run hot"
                self.now = plan.next_check
        raise AssertionError(f"no end: {plan}")


def end_some(world: World, data: st.DataObject) -> None:
    """End some of what is under way, well or not."""
    for action in [*world.running.values()]:
        match data.draw(st.sampled_from(["finish", "finish", "finish", "slow", "fail", "stall"])):
            case "finish":
                world.finish(action)
            case "fail":
                world.fail(action, 1.0)
            case "stall":
                world.fail(action, None)


def _image_id(key: str) -> str:
    return compute_digest(key.encode())


def _resource(action: Action) -> str:
    if isinstance(action, StopContainer | RemoveContainer):
        return action.container
    if isinstance(action, EnsureNetwork | RemoveNetwork):
        return action.name
    return action.id
