"""From what is wanted of an app, and how its deploys stand, to what the host is to become of it now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime

from agent.controller.deploy.aims import Aim, find_changed, merge
from agent.controller.deploy.choices import WHOLE_APP
from agent.controller.deploy.deploys import WATCHED, AppDeploys, find_configs
from agent.controller.deploy.revisions import AppRevision, Find, short_name
from agent.controller.telling.conditions import ROLLING_BACK
from agent.plan.actions import Hold
from agent.plan.course import Course
from agent.plan.deploy import Deploy, Stage, compute_watch_end
from agent.plan.observed import ImageState
from agent.plan.wants import DesiredApp


class Aiming:
    """Lives on the loop, one for each app. ``find`` says whether there is an image of an id."""

    def __init__(self, deploys: AppDeploys, find: Find) -> None:
        self._deploys = deploys
        self._find = find
        self._merged: tuple[str, str, DesiredApp] | None = None

    def aim(self, desired: DesiredApp, states: Mapping[str, ImageState], now: float, *, bare: bool) -> Aim:
        """What the app is to become now. ``bare``: it has no containers, so that there is nothing to keep meanwhile.

        Begins a deploy, or gives up the one under way, when what is wanted is another revision.
        """
        deploys, pinned = self._deploys, self._deploys.pinned
        wanted = deploys.find_wanted(desired, states)
        if bare and self._is_base_lost(wanted):
            if wanted is None:
                return self._with_choices(Aim(desired, states, preparing=True), desired)
            deploys.lose_base(wanted, now)
        if wanted is None:
            return self._with_choices(self._aim_unprepared(desired, states, bare=bare), desired)
        states = pinned.states(self._find, states) if pinned is not None else states
        barrier = deploys.turn_to(wanted, now)
        if barrier is not None or (deploys.choices.stands_still and deploys.current not in ("", wanted.id)):
            aim = self._aim_meanwhile(wanted, states)
            if barrier is not None:
                aim = dataclasses.replace(aim, holds=(*aim.holds, barrier.hold), due=barrier.due)
            return self._with_choices(aim, desired)
        return self._with_choices(self._aim_prepared(wanted, states), desired)

    def preview(self, desired: DesiredApp, states: Mapping[str, ImageState], now: float) -> Aim:
        """What the app is to become in the end, as far as is known; nothing is begun."""
        deploys, pinned, base = self._deploys, self._deploys.pinned, self._deploys.in_force
        wanted = deploys.find_wanted(desired, states)
        aimed = (pinned.desired, pinned.states(self._find, states)) if pinned is not None else (desired, states)
        if wanted is None or (deploys.quarantined != wanted.id and deploys.must_begin(wanted, base)):
            forward = frozenset(find_changed(wanted, base)) if wanted is not None and base is not None else None
            barrier = deploys.admit(wanted, base, now) if wanted is not None else None
            holds = (barrier.hold,) if barrier is not None else ()
            course = Course(deploying=base is not None, since=now, forward=forward)
            return self._with_choices(Aim(*aimed, course, holds=holds), desired)
        return self._with_choices(self._aim_prepared(wanted, aimed[1]), desired)

    def _is_base_lost(self, wanted: AppRevision | None) -> bool:
        """Whether there is no way back to what was in force, as its images are not here: on a host that a backup was
        restored on. When what is wanted was taken back, those images are waited for."""
        base, kept = self._deploys.in_force, self._deploys.quarantined
        if base is None or (wanted is not None and wanted.id in (base.id, kept)):
            return False
        return any(self._find(image) is None for image in base.images.values())

    def _with_choices(self, aim: Aim, desired: DesiredApp) -> Aim:
        """An aim with what people have said: which services stand still, and whether the files count."""
        deploys, holds, pinned = self._deploys, aim.holds, self._deploys.pinned
        if pinned is not None and pinned.desired.content != desired.content:
            text = f"revision {short_name(pinned)} is pinned, and the files ask for another: "
            text += f"holdfast resume {desired.name} deploys that"
            holds = (*holds, Hold("Pinned", text, final=True, chosen=True))
        paused = deploys.choices.paused - {WHOLE_APP}
        course = dataclasses.replace(aim.course, paused=paused) if paused else aim.course
        return dataclasses.replace(aim, course=course, holds=holds)

    def _aim_meanwhile(self, wanted: AppRevision, states: Mapping[str, ImageState]) -> Aim:
        """While what is wanted may not be deployed a deploy under way goes on, and else what is in force stays so."""
        deploys, base = self._deploys, self._deploys.in_force
        looking = not deploys.choices.pinned
        newer = deploys.revisions.find(deploys.current)
        if newer is not None:
            aim = self._aim_prepared(newer, newer.states(self._find, states))
            return dataclasses.replace(aim, preparing=looking)
        if base is None:
            return Aim(wanted.desired, states, preparing=True)
        return Aim(base.desired, base.states(self._find, states), Course(forward=frozenset()), preparing=looking)

    def _aim_prepared(self, wanted: AppRevision, states: Mapping[str, ImageState]) -> Aim:
        deploys, base = self._deploys, self._deploys.in_force
        if base is not None and base.id == wanted.id:
            return Aim(wanted.desired, states, Course(forward=frozenset()))
        if base is not None and deploys.deploy is None:
            failed = deploys.revisions.find(wanted.id) or wanted
            text = f"revision {short_name(failed)} was taken back: {deploys.reason}"
            text += f"\nrevision {short_name(base)} is in force; change the files, or holdfast retry"
            hold = Hold("RolledBack", text, final=True, failing=True)
            return Aim(base.desired, base.states(self._find, states), Course(forward=frozenset()), holds=(hold,))
        return self._aim_deploying(wanted, states)

    def _aim_unprepared(self, desired: DesiredApp, states: Mapping[str, ImageState], *, bare: bool) -> Aim:
        """Until every image of what is wanted is local, what was in force stays so, and a deploy goes on waiting."""
        deploy, base = self._deploys.deploy, self._deploys.in_force
        if base is None:
            return Aim(desired, states, preparing=bare)
        newer = self._deploys.revisions.find(deploy.revision) if deploy is not None else None
        if newer is None or deploy is None or deploy.stage is Stage.REVERTING:
            course = self._course(frozenset())
            images = base.states(self._find, states)
            return Aim(base.desired, images, course, preparing=True, older=newer.desired if newer else None)
        aim = self._aim_deploying(newer, newer.states(self._find, states))
        return dataclasses.replace(aim, preparing=True)

    def _aim_deploying(self, wanted: AppRevision, states: Mapping[str, ImageState]) -> Aim:
        deploy, base = self._deploys.deploy, self._deploys.in_force
        assert deploy is not None
        holds: tuple[Hold, ...] = ()
        if deploy.stage is Stage.BAKING:
            holds = (self._say_watched(deploy, wanted),)
        if base is None:
            return Aim(wanted.desired, states, holds=holds)
        if deploy.stage is Stage.REVERTING:
            hold = Hold(ROLLING_BACK, f"back to revision {short_name(base)}: {deploy.message}", failing=True)
            course = self._course(frozenset())
            return Aim(base.desired, base.states(self._find, states), course, older=wanted.desired, holds=(hold,))
        if deploy.stage is Stage.PAUSED:
            numbered = short_name(self._deploys.revisions.find(wanted.id) or wanted)
            text = f"the rollout of revision {numbered} is paused: {deploy.message}\n"
            text += f"holdfast resume {wanted.desired.name} goes on, holdfast rollback {wanted.desired.name} goes back"
            holds = (Hold("RolloutPaused", text, final=True, failing=True),)
        course = self._course(frozenset(deploy.services))
        merged = self._merge(wanted, base)
        images = {**base.states(self._find, states), **states}
        return Aim(merged, images, course, older=base.desired, holds=holds)

    def _say_watched(self, deploy: Deploy, wanted: AppRevision) -> Hold:
        """What is in place is not final yet: also of the first revision, which there is no way back from."""
        moment = datetime.fromtimestamp(compute_watch_end(deploy, find_configs(deploy, wanted.desired)), UTC)
        what = f"is in place and watched until {moment:%H:%M:%S} UTC before it is final"
        if self._deploys.baked:
            what = "is in place and waits for the others of its group"
        return Hold(WATCHED, f"revision {short_name(self._deploys.revisions.find(wanted.id) or wanted)} {what}")

    def _course(self, forward: frozenset[str]) -> Course:
        deploy = self._deploys.deploy
        if deploy is None:
            return Course(forward=forward)
        held = "the rollout is paused" if deploy.stage is Stage.PAUSED else ""
        reverting = deploy.stage is Stage.REVERTING
        return Course(True, reverting, held, deploy.began, forward)

    def _merge(self, wanted: AppRevision, base: AppRevision) -> DesiredApp:
        if self._merged is None or self._merged[:2] != (wanted.id, base.id):
            self._merged = (wanted.id, base.id, merge(wanted, base))
        return self._merged[2]
