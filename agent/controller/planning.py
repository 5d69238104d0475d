"""From what an app should be, and what is there, to its plan: which revision counts now, and what that asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from agent.controller.deploy.aiming import Aiming
from agent.controller.deploy.aims import Aim, is_look
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.revisions import short_name
from agent.controller.inventory import Pending
from agent.controller.parts import Shared
from agent.plan.actions import EnsureImage, Hold, Plan
from agent.plan.app_rules import unnetwork_id
from agent.plan.deploy import Stage
from agent.plan.history import SlotHistory
from agent.plan.observed import ImageState, ObservedApp, ObservedContainer, SlotKey
from agent.plan.planner import compute_plan, compute_preparation
from agent.plan.wants import DesiredApp
from agent.values import frozen

TURNS = 3


@frozen
class Situation:
    """What a worker knows: what is wanted of the app (None with ``removed``: nothing; without: nobody knows), its
    images and slots, and what is under way; what is ``stopping`` only drains yet where that is true."""

    desired: DesiredApp | None
    removed: bool
    images: Mapping[str, ImageState]
    slots: Mapping[SlotKey, SlotHistory]
    stopping: Mapping[str, bool]
    pending: tuple[Pending, ...]
    actions: frozenset[str] = frozenset()


class AppPlanning:
    """Lives on the loop. ``aim`` and ``observed`` are those of the last decision; ``watch`` is called with what is
    wanted and the aim before the app is looked at, so that what there is to be known of its containers is."""

    def __init__(
        self,
        app: str,
        shared: Shared,
        deploys: AppDeploys,
        watch: Callable[[DesiredApp | None, Aim], None] = lambda desired, aim: None,
    ) -> None:
        self._watch = watch
        self._app = app
        self._shared = shared
        self._deploys = deploys
        text = f"the app is paused: holdfast resume {app} ends that"
        self._paused = Hold("Paused", text, final=True, chosen=True)
        self._aiming = Aiming(deploys, shared.engine.images.find)
        self.aim = Aim(None, {})
        self.observed: tuple[ObservedContainer, ...] = ()

    def decide(self, situation: Situation, now: float) -> Plan:
        """The plan for what the app is to become now. What it says of a deploy may turn or end that, which changes what
        is planned for."""
        deploys = self._deploys
        bare = not self._shared.inventory.of_app(self._app) and not situation.pending
        plan, due = Plan(self._app, slots=situation.slots), None
        for _ in range(TURNS):
            self.aim = Aim(None, {})
            if situation.desired is not None:
                self.aim = self._aiming.aim(situation.desired, situation.images, now, bare=bare)
            self._watch(situation.desired, self.aim)
            observed = self._observe(situation)
            self.observed = observed.containers
            plan = self._compute(situation, replace(observed, slots=plan.slots), now)
            if self._shared.suspended:  # what ends now is taken down: no failure of a deploy, nor of a slot
                return replace(plan, slots=situation.slots)
            looks = {action.id for action in plan.actions if is_look(action, self.aim.images)}
            turned, due = deploys.advance(plan, self.aim, now, busy=bool(situation.actions - looks))
            if not turned:
                break
        if deploys.mates is not None:
            deploys.mates.note()
        if deploys.choices.stands_still:
            return Plan(self._app, (), (self._paused,), slots=situation.slots)
        plan = replace(plan, next_check=_soonest((plan.next_check, due, self.aim.due)))
        return self._say_rolling(plan) if situation.desired is not None else plan

    def _say_rolling(self, plan: Plan) -> Plan:
        """A deploy that may be taken back yet is not done when its plan is empty: what stopped first has to stay up."""
        deploy = self._deploys.deploy
        if plan.holds or plan.actions or deploy is None or not deploy.base or deploy.stage is not Stage.ROLLING:
            return plan
        revision = self._deploys.revisions.find(deploy.revision)
        name = short_name(revision) if revision is not None else deploy.revision
        return replace(plan, holds=(Hold("RollingOut", f"revision {name} is being rolled out"),))

    def preview(self, situation: Situation, now: float) -> Plan:
        """The plan for all that is wanted in the end, as of now; nothing is begun."""
        observed = self._observe(situation)
        if situation.desired is None:
            return self._compute(situation, observed, now)
        aim = self._aiming.preview(situation.desired, situation.images, now)
        plan = compute_plan(aim.desired, replace(observed, images=aim.images), now, aim.course)
        standing = (self._paused,) if self._deploys.choices.stands_still else ()
        return replace(plan, holds=(*plan.holds, *aim.holds, *standing))

    def _compute(self, situation: Situation, observed: ObservedApp, now: float) -> Plan:
        desired, aim = situation.desired, self.aim
        if desired is None:
            return compute_plan(None, observed, now) if situation.removed else Plan(self._app, slots=observed.slots)
        ahead = compute_preparation(desired, observed, now) if aim.preparing else None
        if ahead is not None and aim.desired is desired:
            return replace(ahead, holds=(*ahead.holds, *aim.holds)) if aim.holds else ahead
        plan = compute_plan(aim.desired, replace(observed, images=aim.images), now, aim.course)
        if ahead is None:
            return replace(plan, holds=(*plan.holds, *aim.holds)) if aim.holds else plan
        others = (action for action in plan.actions if not isinstance(action, EnsureImage))
        return replace(
            plan,
            actions=(*ahead.actions, *others),
            holds=(*plan.holds, *aim.holds, *ahead.holds),
            next_check=_soonest((plan.next_check, ahead.next_check)),
        )

    def _observe(self, situation: Situation) -> ObservedApp:
        shared = self._shared
        owned = shared.owners.of_app(self._app)
        staying = frozenset(name for name in owned if unnetwork_id(name) not in situation.actions)
        return ObservedApp(
            name=self._app,
            containers=shared.inventory.observe(
                self._app, shared.health.reading, situation.stopping, situation.pending
            ),
            images=situation.images,
            networks=owned if situation.removed else staying & shared.names.networks,
            volumes=shared.names.volumes,
            slots=situation.slots,
            documents=shared.specs.texts,
        )


def _soonest(moments: Iterable[float | None]) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
