"""One app's worker: observe, plan, begin what can be begun, tell. It never waits for another app's.

A reconcile itself never blocks: actions run as tasks beside it, and what is under way is part of what is observed
(a start as a pending container, a stop as a stopping one), so that a slow action delays nothing but itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from agent.controller.aims import Aim
from agent.controller.apply import Scene, apply_action
from agent.controller.clockwatch import ClockWatch
from agent.controller.conditions import Condition, Findings, carry_over, compute_conditions, is_idle_talk
from agent.controller.conditiontelling import ConditionTeller
from agent.controller.deploys import AppDeploys
from agent.controller.drain import compute_drain, drain
from agent.controller.drift import Drift
from agent.controller.endpoints import AppEndpoints, compute_endpoints
from agent.controller.faults import Faults
from agent.controller.images import AppImages
from agent.controller.inventory import Pending
from agent.controller.outcome import compute_failure
from agent.controller.parts import Shared
from agent.controller.planning import AppPlanning, Situation
from agent.controller.slots import KIND as SLOT_KIND
from agent.controller.slots import encode_history, slot_key
from agent.controller.subjects import describe, kind_of, resource_of
from agent.controller.watching import watch_containers
from agent.errors import NotFound, Problem
from agent.plan.actions import (
    Action,
    EnsureImage,
    Hold,
    Plan,
    StartContainer,
    StopContainer,
)
from agent.plan.history import SlotHistory, count_failed_start, forgive, ignore_container
from agent.plan.observed import ObservedContainer, Phase, SlotKey
from agent.plan.wants import DesiredApp

LONGEST_TIMER = 3600.0


class AppWorker:
    """Everything the loop knows of one app. All methods run on the loop.

    ``desired`` is what is in force; with ``removed`` it is None and everything goes; None without it means that
    nobody knows (a file that was never valid): then nothing is touched.
    """

    def __init__(
        self,
        name: str,
        shared: Shared,
        images: AppImages,
        deploys: AppDeploys,
        slots: Mapping[SlotKey, SlotHistory],
    ) -> None:
        self.name = name
        self.desired: DesiredApp | None = None
        self.removed = False
        self.invalid = ""
        self.warnings: tuple[Problem, ...] = ()
        self.generation = 0
        self.conditions: dict[str, Condition] = {}
        self.plan = Plan(name)
        self.slots = slots
        self.images = images
        self.deploys = deploys
        self.passes = 0
        self._shared = shared
        self._planning = AppPlanning(name, shared, deploys, partial(watch_containers, name, shared))
        self._faults = Faults()
        self._conditions = ConditionTeller(name, shared)
        self.drift = Drift(name, shared.metrics, shared.events)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._pending: dict[str, Pending] = {}
        self._stopping: dict[str, bool] = {}
        self._hurry = asyncio.Event()
        self._clock_watch = ClockWatch(shared.clock, time.monotonic)
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # what others say to it

    def want(self, desired: DesiredApp | None, *, invalid: str = "", removed: bool = False) -> None:
        """Set what is desired from now on; ``invalid`` says why a newer version of it cannot be used."""
        if desired is not self.desired or removed != self.removed:
            self.generation += 1
            self._faults.forgive()
            self.drift.begin()
            if desired is not None:
                self.images.begin(desired)
            self.slots = {key: replace(history, stalled=False) for key, history in self.slots.items()}
        self.desired, self.removed, self.invalid = desired, removed, invalid
        self.poke()

    def warn(self, warnings: tuple[Problem, ...]) -> None:
        """Log what is hardly meant in the app's files, whenever it is something else than before."""
        if warnings != self.warnings:
            self._shared.events.warn(warnings, app=self.name)
        self.warnings = warnings

    def forgive(self) -> None:
        """Try everything that failed again, at once, and look at builds again."""
        self._faults.forgive()
        if self.desired is not None:
            self.images.recheck(self.desired)
        self._keep_slots({key: forgive(history) for key, history in self.slots.items()})
        self.poke()

    def restart_history(self) -> None:
        """Everything was taken down on purpose: what happened before does not count any more."""
        self._faults.forgive()
        self.drift.begin()
        self._keep_slots({})

    def poke(self) -> None:
        """Something may have changed: reconcile soon."""
        self._wake.set()

    @property
    def gone(self) -> bool:
        """Whether nothing is left of a removed app."""
        idle = not self._busy and not self.plan.actions and not self.observed
        return self.removed and self.passes > 0 and not self._wake.is_set() and idle

    @property
    def converged(self) -> bool:
        """Whether the app is as it should be, and was looked at since the last reason to."""
        ready = self.conditions.get("Ready")
        idle = not self._busy and not self.plan.actions and not self._wake.is_set()
        return ready is not None and ready.status == "True" and idle

    @property
    def aim(self) -> Aim:
        """What the app was to become in the last pass."""
        return self._planning.aim

    @property
    def observed(self) -> tuple[ObservedContainer, ...]:
        """The app's containers as the last pass saw them."""
        return self._planning.observed

    async def run(self) -> None:
        """Reconcile whenever there is reason to, until cancelled; actions under way are cancelled with it."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self.reconcile()
        finally:
            self._disarm()
            for task in self._busy.values():
                task.cancel()

    async def quiesce(self) -> None:
        """Wait until no action on a container or network is under way; pulls and builds may go on, drains end."""
        self._hurry.set()
        while working := [task for resource, task in self._busy.items() if not resource.startswith("image/")]:
            await asyncio.wait(working)
        self._hurry.clear()

    @property
    def starting(self) -> frozenset[str]:
        """The spec digests of the containers whose start is under way."""
        return frozenset(pending.container.digest for pending in self._pending.values())

    # one pass

    def reconcile(self) -> None:
        """Observe, plan, act, tell. Never raises: a fault of ours becomes a condition and is tried again."""
        loop = asyncio.get_running_loop()
        begun, success = loop.time(), True
        try:
            self._pass()
        except Exception as error:
            success = False
            self._report_fault(error)
        self.passes += 1
        self._shared.metrics.reconciled(loop.time() - begun, success=success)
        self._shared.changed()

    def _pass(self) -> None:
        now = self._shared.clock()
        self._shared.inventory.refresh()
        before = self.deploys.current
        if self._clock_watch.was_set():
            self.deploys.restart_clock(now)
        self.plan = self._planning.decide(self._situation(), now)
        if self.deploys.current not in ("", before):
            self.drift.begin()
        self._keep_slots(self.plan.slots)
        self._faults.keep({action.id for action in self.plan.actions})
        self.drift.note(self.plan)
        if not self._shared.suspended:
            self._begin(now)
        self._publish()
        self._tell(now)
        self._arm(now)

    def _situation(self) -> Situation:
        pending = tuple(self._pending.values())
        images, busy = self.images.states, bool(self._busy)
        actions = frozenset(task.get_name() for task in self._busy.values())
        return Situation(self.desired, self.removed, images, self.slots, self._stopping, pending, busy, actions)

    def compute_whole(self, now: float) -> Plan:
        """The plan as of now for all that is wanted, and beside what it holds back all else that keeps the app from
        being as desired."""
        plan = self._planning.preview(self._situation(), now)
        conflict = self._shared.publisher.conflicts.get(self.name, "")
        troubles = (("InvalidSpec", self.invalid), ("PortConflict", conflict), ("PlanRepeats", self._faults.repeats))
        holds = [Hold(reason, message, final=True, failing=True) for reason, message in troubles if message]
        return replace(plan, holds=(*plan.holds, *self._faults.holds, *holds))

    # acting

    def _begin(self, now: float) -> None:
        aim, seconds = self.aim, 0.0
        for action in self.plan.ready_actions:
            resource = resource_of(action)
            if resource in self._busy or not self._faults.may_try(action, now):
                continue
            if isinstance(action, StartContainer):
                self._pending[action.id] = self._expect(action, now)
            if isinstance(action, StopContainer):
                self._stopping[action.container] = True
                seconds = compute_drain(action.container, self.observed, aim.desired, self.plan.actions)
            self.drift.begin_action(action)
            desired = self.desired if isinstance(action, EnsureImage) else aim.desired
            scene = Scene(
                self.name, desired, self.images, self._shared, self.deploys.revisions, partial(self._drain, seconds)
            )
            run = self._perform(action, resource, scene)
            self._busy[resource] = asyncio.get_running_loop().create_task(run, name=action.id)

    def _expect(self, action: StartContainer, now: float) -> Pending:
        place = (action.service, action.slot)
        known = frozenset(container.id for container in self.observed if (container.service, container.slot) == place)
        container = ObservedContainer(
            id=f"pending-{action.id}",
            app=self.name,
            service=action.service,
            slot=action.slot,
            digest=action.digest,
            phase=Phase.PENDING,
            image=action.image,
            created=now,
        )
        return Pending(container, known)

    async def _drain(self, seconds: float, container_id: str) -> None:
        """Wait, within bounds, until a container that is out of traffic has nobody connected to it."""
        self._shared.health.rest(container_id)
        self.poke()
        if seconds and not self._hurry.is_set():
            await drain(self._shared, container_id, seconds, self._hurry)
        self._stopping[container_id] = False

    async def _perform(self, action: Action, resource: str, scene: Scene) -> None:
        try:
            await self.deploys.settle_on_disk()
            await apply_action(action, scene)
        except Exception as error:
            self._fail(action, scene, error)
        else:
            if isinstance(action, StopContainer):
                key = (action.service, action.slot)
                ignored = ignore_container(self.slots.get(key, SlotHistory()), action.container)
                self._keep_slots({**self.slots, key: ignored})
            self._faults.succeed(action)
            self.drift.correct(action.id)
        finally:
            self._pending.pop(action.id, None)
            if isinstance(action, StopContainer):
                self._stopping.pop(action.container, None)
            self._busy.pop(resource, None)
            self.poke()

    def _fail(self, action: Action, scene: Scene, error: Exception) -> None:
        now = self._shared.clock()
        if isinstance(action, EnsureImage):
            failure = compute_failure(error, scene.images.next_attempt(action.key))
            scene.images.fail(action.key, failure, now)
        elif isinstance(action, StartContainer):
            key = (action.service, action.slot)
            history = self.slots.get(key, SlotHistory())
            same = history.failures if history.digest == action.digest else 0
            failure = compute_failure(error, same + 1)
            told = (failure.reason, failure.message, failure.retry_after)
            self._keep_slots({**self.slots, key: count_failed_start(history, action.digest, now, told)})
            if isinstance(error, NotFound):
                self.images.lose(action.image)
        else:
            failure = self._faults.fail(action, error, now)
        self._shared.events.fail(kind_of(action), failure, error, app=self.name, what=describe(action))

    # telling

    def _keep_slots(self, slots: Mapping[SlotKey, SlotHistory]) -> None:
        before, self.slots = self.slots, slots
        if slots is before:
            return
        for key in {*before, *slots}:
            history = slots.get(key)
            if history is not before.get(key):
                document = None if history is None else encode_history(history)
                self._shared.journal.put(SLOT_KIND, slot_key(self.name, key), document)

    def _publish(self) -> None:
        aim = self.aim
        unbegun = aim.preparing and aim.desired is self.desired and not self.observed
        if aim.desired is None or unbegun or self._shared.suspended:
            self._shared.publisher.update(self.name, AppEndpoints() if not self.removed else None)
            return
        records = (
            (container, record)
            for container in self.observed
            if container.id not in self._stopping and (record := self._shared.inventory.get(container.id)) is not None
        )
        digests = aim.desired.digests(aim.images) if aim.older is not None else {}
        self._shared.publisher.update(self.name, compute_endpoints(aim.desired, records, digests, aim.older))

    def needed_images(self) -> set[str]:
        """The references and ids of the images it needs. From any thread."""
        desired = self.desired
        return self.images.needed(desired) | self.deploys.revisions.images if desired is not None else set()

    def findings(self) -> Findings:
        """What the conditions are made from."""
        holds = (*self.plan.holds, *self._faults.holds)
        return Findings(
            plan=replace(self.plan, holds=holds),
            containers=self.observed,
            busy=len(self._busy),
            invalid=self.invalid,
            blind=self.desired is None and not self.removed,
            conflict=self._shared.publisher.conflicts.get(self.name, ""),
            repeats=self._faults.repeats,
            suspended=self._shared.suspended,
            looking=self._is_looking(),
            names=self._shared.engine.networks.names_fault,
        )

    def _is_looking(self) -> bool:
        """Whether what was as desired is only looked at again: local images that may have a newer version."""
        ready = self.conditions.get("Ready")
        same = ready is not None and ready.status == "True" and ready.generation == self.generation
        looks = (isinstance(action, EnsureImage) and self.images.is_local(action.key) for action in self.plan.actions)
        return (
            same
            and not self.plan.holds
            and not self._faults.holds
            and all(looks)
            and set(self._busy) <= {action.id for action in self.plan.actions}
        )

    def _tell(self, now: float) -> None:
        fresh = compute_conditions(self.findings())
        before = self.conditions
        self.conditions, changed = carry_over(before, fresh, self.generation, now)
        if self.conditions["Ready"].status == "True":
            self.drift.settle()
        for condition in changed:
            if self.removed or is_idle_talk(condition, before.get(condition.type)):
                continue
            self._conditions.tell(condition, self.plan, self.deploys.current or self.deploys.base)

    def _report_fault(self, error: Exception) -> None:
        failure = compute_failure(error, 1)
        self._shared.events.fail("app", failure, error, app=self.name, what="reconcile")
        fault = Condition("Ready", "False", failure.reason, failure.message)
        self.conditions, _ = carry_over(self.conditions, [fault], self.generation, self._shared.clock())
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(failure.retry_after or 60.0, self.poke)

    def _arm(self, now: float) -> None:
        """Wake up when time alone would change the plan."""
        self._disarm()
        moments = [moment for moment in (self.plan.next_check, self._faults.next_try) if moment is not None]
        if moments and not self._shared.suspended:
            wait = min(max(min(moments) - now, 0.001), LONGEST_TIMER)
            self._timer = asyncio.get_running_loop().call_later(wait, self.poke)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
