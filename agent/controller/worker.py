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

from agent.controller.alarm import Alarm
from agent.controller.clockwatch import ClockWatch
from agent.controller.conditiontelling import ConditionTeller
from agent.controller.deploy.aims import Aim
from agent.controller.deploy.deploys import WATCHED, AppDeploys
from agent.controller.drift import Drift
from agent.controller.faults import Faults
from agent.controller.images import KIND as IMAGE_KIND
from agent.controller.images import AppImages
from agent.controller.outcome import compute_failure
from agent.controller.parts import Shared
from agent.controller.planning import AppPlanning, Situation
from agent.controller.slots import AppSlots
from agent.controller.telling.conditions import (
    READY,
    STALLED,
    Condition,
    Findings,
    carry_over,
    compute_conditions,
    is_idle_talk,
)
from agent.controller.traffic.endpoints import AppEndpoints, compute_endpoints
from agent.controller.underway import AppParts, Underway
from agent.controller.watching import watch_containers
from agent.errors import Problem
from agent.plan.actions import EnsureImage, Hold, Plan
from agent.plan.crashloop import CRASH_LOOP
from agent.plan.history import SlotHistory
from agent.plan.observed import ObservedContainer, SlotKey
from agent.plan.wants import DesiredApp

_UP_TO_PEOPLE = frozenset({"RolledBack", "RolloutPaused", "InvalidSpec"})


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
        self.slots = AppSlots(name, shared.journal, slots)
        self.images = images
        self.deploys = deploys
        self.passes = 0
        self._shared = shared
        self._planning = AppPlanning(name, shared, deploys, partial(watch_containers, name, shared))
        self._faults = Faults()
        self._conditions = ConditionTeller(name, shared)
        self.drift = Drift(name, shared.metrics, shared.events)
        parts = AppParts(name, images, deploys, self.slots, self._faults, self.drift)
        self._underway = Underway(parts, shared, self.poke)
        self._clock_watch = ClockWatch(shared.clock, time.monotonic)
        self._wake = asyncio.Event()
        self._alarm = Alarm(self.poke)

    # what others say to it

    def want(self, desired: DesiredApp | None, *, invalid: str = "", removed: bool = False) -> None:
        """Set what is desired from now on; ``invalid`` says why a newer version of it cannot be used."""
        if desired is not self.desired or removed != self.removed:
            self.generation += 1
            self._faults.forgive()
            self.drift.begin()
            if desired is not None:
                self.images.begin(desired)
                self._forget_images(desired)
            self.slots.unstall()
        self.desired, self.removed, self.invalid = desired, removed, invalid
        self.poke()

    def _forget_images(self, desired: DesiredApp) -> None:
        """What was found out of images counts for as long as they are wanted, or a revision that is kept wants them."""
        wanted = (desired, *(revision.desired for revision in self.deploys.revisions.all))
        for key in self.images.forget({key for one in wanted for key in one.images}):
            self._shared.journal.put(IMAGE_KIND, key, None)

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
        self.slots.forgive()
        self.poke()

    def restart_history(self) -> None:
        """Everything was taken down on purpose: what happened before does not count any more."""
        self._faults.forgive()
        self.drift.begin()
        self.slots.keep({})

    def poke(self) -> None:
        """Something may have changed: reconcile soon."""
        self._wake.set()

    @property
    def gone(self) -> bool:
        """Whether nothing is left of a removed app."""
        return self.removed and self.passes > 0 and self._idle and not self.observed

    @property
    def converged(self) -> bool:
        """Whether the app is as it should be, and was looked at since the last reason to."""
        ready = self.conditions.get("Ready")
        return ready is not None and ready.status == "True" and self._idle

    @property
    def in_place(self) -> bool:
        """Whether the app is as it should be, or would be if it were not still watched."""
        holds = self.plan.holds
        return self.converged or (bool(holds) and all(hold.reason == WATCHED for hold in holds) and self._idle)

    @property
    def _idle(self) -> bool:
        return not self._underway and not self.plan.actions and not self._wake.is_set()

    @property
    def stuck(self) -> bool:
        """Whether it is not as it should be, was looked at since the last reason to, and stays so until somebody
        changes its files or gives a command."""
        stalled = self.conditions.get(STALLED)
        return self._idle and stalled is not None and stalled.status == "True" and stalled.reason in _UP_TO_PEOPLE

    @property
    def tells_crashes(self) -> bool:
        """Whether it crashes again and again, which is told with what its containers wrote."""
        ready = self.conditions.get(READY)
        return ready is not None and ready.reason == CRASH_LOOP

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
            self._alarm.cancel()
            self._underway.cancel()

    async def quiesce(self) -> None:
        """Wait until no action on a container or network is under way; pulls and builds may go on, drains end."""
        await self._underway.quiesce()

    @property
    def starting(self) -> frozenset[str]:
        """The spec digests of the containers whose start is under way."""
        return frozenset(pending.container.digest for pending in self._underway.pending.values())

    def needed_images(self) -> set[str]:
        """The references and ids of the images it needs. From any thread."""
        desired = self.desired
        return self.images.needed(desired) | self.deploys.revisions.images if desired is not None else set()

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
        self.slots.keep(self.plan.slots)
        self._faults.keep({action.id for action in self.plan.actions})
        self.drift.note(self.plan)
        if not self._shared.suspended:
            self._underway.begin(self.plan, self.aim, self.desired, self.observed, now)
        self._publish()
        self._tell(now)
        self._arm(now)

    def _situation(self) -> Situation:
        underway = self._underway
        return Situation(
            desired=self.desired,
            removed=self.removed,
            images=self.images.states,
            slots=self.slots.histories,
            stopping=underway.stopping,
            pending=tuple(underway.pending.values()),
            actions=underway.actions,
        )

    def compute_whole(self, now: float) -> Plan:
        """The plan as of now for all that is wanted, and beside what it holds back all else that keeps the app from
        being as desired."""
        plan = self._planning.preview(self._situation(), now)
        conflict = self._shared.publisher.conflicts.get(self.name, "")
        troubles = (("InvalidSpec", self.invalid), ("PortConflict", conflict), ("PlanRepeats", self._faults.repeats))
        holds = [Hold(reason, message, final=True, failing=True) for reason, message in troubles if message]
        return replace(plan, holds=(*plan.holds, *self._faults.holds, *holds))

    # telling

    def _publish(self) -> None:
        aim = self.aim
        unbegun = aim.preparing and aim.desired is self.desired and not self.observed
        if aim.desired is None or unbegun or self._shared.suspended:
            self._shared.publisher.update(self.name, AppEndpoints() if not self.removed else None)
            return
        records = (
            (container, record)
            for container in self.observed
            if container.id not in self._underway.stopping
            and (record := self._shared.inventory.get(container.id)) is not None
        )
        digests = aim.desired.digests(aim.images) if aim.older is not None else {}
        self._shared.publisher.update(self.name, compute_endpoints(aim.desired, records, digests, aim.older))

    def _findings(self) -> Findings:
        """What the conditions are made from."""
        holds = (*self.plan.holds, *self._faults.holds)
        return Findings(
            plan=replace(self.plan, holds=holds),
            containers=self.observed,
            busy=len(self._underway),
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
            and self._underway.resources <= {action.id for action in self.plan.actions}
        )

    def _tell(self, now: float) -> None:
        fresh = compute_conditions(self._findings())
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
        self._alarm.set(failure.retry_after or 60.0)

    def _arm(self, now: float) -> None:
        """Wake up when time alone would change the plan."""
        self._alarm.cancel()
        moments = [moment for moment in (self.plan.next_check, self._faults.next_try) if moment is not None]
        if moments and not self._shared.suspended:
            self._alarm.set(min(moments) - now)
