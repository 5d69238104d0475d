"""The actions of one app that are being carried out: each is a task of the loop, one at a time for each resource."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from agent.controller.apply import Scene, apply_action
from agent.controller.deploy.aims import Aim
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.drain import compute_drain, drain
from agent.controller.drift import Drift
from agent.controller.faults import Faults
from agent.controller.images import AppImages
from agent.controller.inventory import Pending, expect_container
from agent.controller.outcome import compute_failure
from agent.controller.parts import Shared
from agent.controller.slots import AppSlots
from agent.controller.telling.subjects import describe, kind_of, resource_of
from agent.errors import NotFound
from agent.plan.actions import Action, EnsureImage, Plan, StartContainer, StopContainer
from agent.plan.history import count_failed_start, ignore_container
from agent.plan.observed import ObservedContainer
from agent.plan.wants import DesiredApp
from agent.values import frozen


@frozen
class AppParts:
    """What one app has of its own for as long as its worker lives."""

    name: str
    images: AppImages
    deploys: AppDeploys
    slots: AppSlots
    faults: Faults
    drift: Drift


class Underway:
    """Lives on the loop. ``changed`` is called whenever an action has ended, or has gone a step further.

    ``pending`` are the starts that are under way, by action id; ``stopping`` the containers that are being stopped, and
    whether they only finish their connections yet.
    """

    def __init__(self, parts: AppParts, shared: Shared, changed: Callable[[], None]) -> None:
        self._parts = parts
        self._shared = shared
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.pending: dict[str, Pending] = {}
        self.stopping: dict[str, bool] = {}
        self._hurry = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def actions(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(task.get_name() for task in self._tasks.values())

    @property
    def resources(self) -> frozenset[str]:
        """What they work on."""
        return frozenset(self._tasks)

    def begin(
        self, plan: Plan, aim: Aim, desired: DesiredApp | None, observed: Sequence[ObservedContainer], now: float
    ) -> None:
        """Begin what a plan made for ``aim`` asks for and nothing keeps back. Images are those of ``desired``, which is
        what is wanted in the end."""
        parts, seconds = self._parts, 0.0
        for action in plan.ready_actions:
            resource = resource_of(action)
            if resource in self._tasks or not parts.faults.may_try(action, now):
                continue
            if isinstance(action, StartContainer):
                self.pending[action.id] = expect_container(parts.name, action, observed, now)
            if isinstance(action, StopContainer):
                self.stopping[action.container] = True
                seconds = compute_drain(action.container, observed, aim.desired, plan.actions)
            parts.drift.begin_action(action)
            wanted = desired if isinstance(action, EnsureImage) else aim.desired
            leave = partial(self._drain, seconds)
            scene = Scene(parts.name, wanted, parts.images, self._shared, parts.deploys.revisions, leave)
            run = self._perform(action, resource, scene)
            self._tasks[resource] = asyncio.get_running_loop().create_task(run, name=action.id)

    async def _drain(self, seconds: float, container_id: str) -> None:
        """Wait, within bounds, until a container that is out of traffic has nobody connected to it."""
        self._shared.health.rest(container_id)
        self._changed()
        if seconds and not self._hurry.is_set():
            await drain(self._shared, container_id, seconds, self._hurry)
        self.stopping[container_id] = False

    async def _perform(self, action: Action, resource: str, scene: Scene) -> None:
        parts = self._parts
        try:
            await parts.deploys.settle_on_disk()
            await apply_action(action, scene)
        except Exception as error:
            self._fail(action, error)
        else:
            if isinstance(action, StopContainer):
                key = (action.service, action.slot)
                parts.slots.put(key, ignore_container(parts.slots.of(key), action.container))
            parts.faults.succeed(action)
            parts.drift.correct(action.id)
        finally:
            self.pending.pop(action.id, None)
            if isinstance(action, StopContainer):
                self.stopping.pop(action.container, None)
            self._tasks.pop(resource, None)
            self._changed()

    def _fail(self, action: Action, error: Exception) -> None:
        parts, now = self._parts, self._shared.clock()
        if isinstance(action, EnsureImage):
            failure = compute_failure(error, parts.images.next_attempt(action.key))
            parts.images.fail(action.key, failure, now)
        elif isinstance(action, StartContainer):
            key = (action.service, action.slot)
            history = parts.slots.of(key)
            same = history.failures if history.digest == action.digest else 0
            failure = compute_failure(error, same + 1)
            told = (failure.reason, failure.message, failure.retry_after)
            parts.slots.put(key, count_failed_start(history, action.digest, now, told))
            if isinstance(error, NotFound):
                parts.images.lose(action.image)
        else:
            if isinstance(action, StopContainer):
                self._shared.health.wake(action.container)
            failure = parts.faults.fail(action, error, now)
        self._shared.events.fail(kind_of(action), failure, error, app=parts.name, what=describe(action))

    async def quiesce(self) -> None:
        """Wait until no action on a container or network is under way; pulls and builds may go on, drains end."""
        self._hurry.set()
        while working := [task for resource, task in self._tasks.items() if not resource.startswith("image/")]:
            await asyncio.wait(working)
        self._hurry.clear()

    def cancel(self) -> None:
        """Cancel all of them."""
        for task in self._tasks.values():
            task.cancel()
