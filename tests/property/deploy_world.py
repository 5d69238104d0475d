"""A host in memory whose app is deployed in revisions: the planner, the decisions of its deploys and their journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from plan_world import APP, World

from agent.controller.deploy.deploys import KIND as DEPLOY_KIND
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.revisions import KIND as REVISION_KIND
from agent.controller.deploy.revisions import Revisions, load_revision_documents
from agent.controller.planning import AppPlanning, Situation
from agent.plan.actions import Action, EnsureImage, Plan, StartContainer, StopContainer
from agent.plan.history import ContainerExit
from agent.plan.observed import Health, ImageState, ObservedContainer, Phase
from agent.plan.wants import DesiredApp
from agent.spec.model import App

Document = Mapping[str, Any]


class MemoryJournal:
    """Documents on their way to a disk that a crash does not reach, and those that are there."""

    def __init__(self) -> None:
        self.unwritten: dict[tuple[str, str], Document | None] = {}
        self.stored: dict[tuple[str, str], Document] = {}

    def put(self, kind: str, key: str, document: Document | None) -> None:
        self.unwritten[kind, key] = document

    def write(self) -> None:
        for key, document in self.unwritten.items():
            if document is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = document
        self.unwritten = {}

    def all(self, kind: str) -> dict[str, Document]:
        return {key: document for (found, key), document in self.stored.items() if found == kind}


@dataclass
class DeployWorld(World):
    """``version`` is what the registry's tags stand for at the moment; what it handed out stays local.

    A container whose environment says ``FAULT: crash`` ends after its start, one that says ``sick`` is never healthy.
    """

    version: int = 1
    local: set[str] = field(default_factory=set)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    faults: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._load()

    def _load(self) -> None:
        """What an agent does when it starts: all it knows of the app is what is on the disk."""
        teller: Any = SimpleNamespace(record=lambda *_, **event: self.told.append(event["reason"]))
        journal: Any = self.journal
        documents = load_revision_documents(self.journal.all(REVISION_KIND)).get(APP, {})
        known = self.journal.all(DEPLOY_KIND).get(APP, {})
        self.deploys = AppDeploys(APP, Revisions(APP, journal, documents), journal, teller, known)
        engine = SimpleNamespace(images=SimpleNamespace(find=lambda name: name if name in self.local else None))
        inventory = SimpleNamespace(of_app=self._own, observe=lambda *_: self.observe().containers)
        shared: Any = SimpleNamespace(
            engine=engine,
            suspended=False,
            inventory=inventory,
            health=SimpleNamespace(reading=None),
            specs=SimpleNamespace(texts={}),
            owners=SimpleNamespace(of_app=lambda _: frozenset(self.networks)),
            names=SimpleNamespace(networks=frozenset(self.networks), volumes=frozenset(self.volumes)),
        )
        self.shared = shared
        self.planning = AppPlanning(APP, shared, self.deploys)

    def _own(self, _: str) -> list[ObservedContainer]:
        return [container for container in self.containers.values() if container.app == APP]

    def want(self, app: App | None) -> None:
        super().want(app)
        if app is None:
            self.completed.clear()
        for state in self.images.values():
            assert state.id is None or state.id in self.local

    def plan(self) -> Plan:
        names = SimpleNamespace(networks=frozenset(self.networks), volumes=frozenset(self.volumes))
        self.shared.names = names
        under_way = frozenset(self.running)
        situation = Situation(self.desired, self.desired is None, self.images, self.slots, {}, (), under_way)
        plan = self.planning.decide(situation, self.now)
        if self.desired is None and not self.running and not self._own(APP):
            self.deploys.forget()
        self.slots = dict(plan.slots)
        return plan

    def begin(self, plan: Plan) -> list[Action]:
        """What was decided is on disk before anything is done because of it."""
        if plan.ready_actions and self.deploys.unsaved:
            self.journal.write()
            self.deploys.unsaved = False
        fresh = super().begin(plan)
        self.started += [action.digest for action in fresh if isinstance(action, StartContainer)]
        return fresh

    def finish(self, action: Action) -> None:
        wanted, aim = self.desired, self.planning.aim.desired
        if isinstance(action, EnsureImage):
            self.running.pop(action.id, None)
            if wanted and action.key in wanted.images:
                tag = wanted.images[action.key].reference
                found = "sha256:" + f"{tag}@{self.version}".encode().hex().ljust(64, "0")[:64]
                self.local.add(found)
                self.images = {**self.images, action.key: ImageState(found, current=True)}
            return
        self.desired = aim
        try:
            super().finish(action)
        finally:
            self.desired = wanted
        if isinstance(action, StartContainer) and aim and action.service in aim.app.services:
            fault = str(aim.app.services[action.service].environment.get("FAULT", ""))
            if fault:
                self.faults[list(self.containers)[-1]] = fault

    def fail(self, action: Action, retry_after: float | None) -> None:
        self.images = dict(self.images)
        super().fail(action, retry_after)

    def end(self, identifier: str, how: ContainerExit, phase: Phase = Phase.EXITED) -> None:
        found = self.containers.get(identifier)
        if found is not None and found.alive and found.service == "job" and how.code == 0 and phase is Phase.EXITED:
            self.completed.add(found.digest)
        super().end(identifier, how, phase)

    def move_tags(self) -> None:
        """What the registry's tags stand for changes, and somebody asks for another look."""
        self.version += 1
        self.images = {key: replace(state, current=False) for key, state in self.images.items()}

    def restart_agent(self, completed: Callable[[Action], bool]) -> None:
        """What was not written is lost, and every image is looked at again."""
        super().restart_agent(completed)
        self.journal.unwritten = {}
        self._load()
        self.images = {key: replace(state, stalled=False, retry_at=0.0) for key, state in self.images.items()}

    @property
    def base(self) -> DesiredApp | None:
        found = self.deploys.revisions.find(self.deploys.base)
        return found.desired if found is not None else None

    def live(self) -> None:
        """A moment of ordinary life: what is under way succeeds, containers turn out as they are."""
        for action in [*self.running.values()]:
            self.finish(action)
        for container in [*self.containers.values()]:
            if container.app != APP or container.phase is not Phase.RUNNING:
                continue
            fault = self.faults.get(container.id, "")
            if container.service == "job":
                self.end(container.id, ContainerExit(1 if fault else 0))
            elif fault == "crash" or (fault and container.health is Health.NONE):
                self.end(container.id, ContainerExit(3))
            elif container.health is not Health.NONE:
                self.set_health(container.id, Health.UNHEALTHY if fault else Health.HEALTHY)

    def go_on(self, rounds: int, look: Callable[[Plan], None]) -> bool:
        """Live on until nothing is left to do; whether that came about."""
        for _ in range(rounds):
            self.live()
            plan = self.plan()
            look(plan)
            self.begin(plan)
            if not self.running and not plan.actions and plan.next_check is None:
                return True
            if not self.running and plan.next_check is not None:
                assert plan.next_check > self.now, "a check in the past would make the loop run hot"
                self.now = plan.next_check
        return False


def is_stop(action: Action) -> bool:
    return isinstance(action, StopContainer)
