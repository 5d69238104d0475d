"""The deploys of one app: which revision is in force, which one takes its place, and whether it may stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.controller.aims import Aim, Barrier, find_changed, merge, touched
from agent.controller.choices import WHOLE_APP, Choices, decode_choices, encode_choices
from agent.controller.deploydocument import decode_deploy, encode_deploy
from agent.controller.journal import Journal
from agent.controller.revisions import (
    GOOD,
    ROLLED_BACK,
    SUPERSEDED,
    AppRevision,
    Find,
    Revisions,
    compute_revision,
)
from agent.controller.revisions import short_name as _short
from agent.controller.telling import Teller
from agent.controller.transaction import Admit, MatesPort
from agent.plan.actions import Hold, Plan
from agent.plan.course import Course, Progress
from agent.plan.deploy import Deploy, Stage, advance
from agent.plan.group import GROUP_FAILED, GROUP_SECONDS
from agent.plan.observed import ImageState
from agent.plan.pace import compute_update
from agent.plan.wants import DesiredApp

KIND = "deploy"


class AppDeploys:
    """Lives on the loop. ``base`` is the id of the revision that proved itself last, ``quarantined`` that of one that
    was taken back and is not tried again. Whatever changes is put into the journal; ``unsaved`` until that is on disk.
    ``admit`` says what keeps a revision from being deployed at this moment.
    """

    def __init__(
        self, app: str, revisions: Revisions, journal: Journal, teller: Teller, document: Mapping[str, Any]
    ) -> None:
        self._app = app
        self.revisions = revisions
        self._journal = journal
        self._teller = teller
        self.deploy = decode_deploy(document.get("deploy"))
        self.base = str(document.get("base", ""))
        self.quarantined = str(document.get("quarantined", ""))
        self.reason = str(document.get("reason", ""))
        self.choices = decode_choices(document.get("choices"))
        self.admit: Admit = lambda wanted, base, now: None
        self.mates: MatesPort | None = None
        self.baked = False
        self._companion = bool(document.get("companion", False))
        self.unsaved = False
        self._merged: tuple[str, str, DesiredApp] | None = None
        self._wanted: tuple[DesiredApp, Mapping[str, ImageState], AppRevision | None] | None = None

    # what to plan for

    def aim(self, desired: DesiredApp, states: Mapping[str, ImageState], now: float, find: Find, *, bare: bool) -> Aim:
        """What the app is to become now. ``bare``: it has no containers, so that there is nothing to keep meanwhile.

        Begins a deploy, or gives up the one under way, when what is wanted is another revision.
        """
        pinned, base = self.pinned, self.revisions.find(self.base)
        wanted = pinned or self._compute_wanted(desired, states)
        if wanted is None:
            return self._with_choices(self._aim_unprepared(desired, states, base, find, bare=bare), desired)
        if pinned is None and self.quarantined and self.quarantined != wanted.id:
            self.quarantined = self.reason = ""
            self._save()
        states = pinned.states(find, states) if pinned is not None else states
        barrier, base = self._advance_to(wanted, base, now), self.revisions.find(self.base)
        if barrier is not None or (self.choices.stands_still and self.current not in ("", wanted.id)):
            aim = self._aim_meanwhile(wanted, states, base, find)
            if barrier is not None:
                aim = dataclasses.replace(aim, holds=(*aim.holds, barrier.hold), due=barrier.due)
            return self._with_choices(aim, desired)
        return self._with_choices(self._aim_prepared(wanted, states, base, find), desired)

    def _advance_to(self, wanted: AppRevision, base: AppRevision | None, now: float) -> Barrier | None:
        """Begin what is wanted, or end what is not; returns what forbids that."""
        if (base is not None and base.id == wanted.id) or wanted.id == self.quarantined:
            if not self.choices.stands_still:
                self._settle(now)
        elif self._must_begin(wanted, base):
            if self.choices.stands_still:
                return Barrier(Hold("Paused", f"revision {_short(wanted)} waits until the app is resumed", chosen=True))
            barrier = self.admit(wanted, base, now)
            if barrier is not None:
                return barrier
            self.begin(wanted, now)
            if self.mates is not None and not self.choices.pinned:
                self.mates.begin(now)
        return None

    def preview(self, desired: DesiredApp, states: Mapping[str, ImageState], now: float, find: Find) -> Aim:
        """What the app is to become in the end, as far as is known; nothing is begun."""
        pinned, base = self.pinned, self.revisions.find(self.base)
        wanted = pinned or self._compute_wanted(desired, states)
        aimed = (pinned.desired, pinned.states(find, states)) if pinned is not None else (desired, states)
        if wanted is None or (self.quarantined != wanted.id and self._must_begin(wanted, base)):
            forward = frozenset(find_changed(wanted, base)) if wanted is not None and base is not None else None
            barrier = self.admit(wanted, base, now) if wanted is not None else None
            holds = (barrier.hold,) if barrier is not None else ()
            course = Course(deploying=base is not None, since=now, forward=forward)
            return self._with_choices(Aim(*aimed, course, holds=holds), desired)
        return self._with_choices(self._aim_prepared(wanted, aimed[1], base, find), desired)

    @property
    def pinned(self) -> AppRevision | None:
        """The revision that is to be in force whatever the files say."""
        return self.revisions.find(self.choices.pinned)

    def find_wanted(self, desired: DesiredApp, states: Mapping[str, ImageState]) -> AppRevision | None:
        """The revision that is wanted; None while one of its images has to be looked up."""
        return self.pinned or self._compute_wanted(desired, states)

    def _with_choices(self, aim: Aim, desired: DesiredApp) -> Aim:
        """An aim with what people have said: which services stand still, and whether the files count."""
        holds, pinned = aim.holds, self.pinned
        if pinned is not None and pinned.desired.content != desired.content:
            text = f"revision {_short(pinned)} is pinned, and the files ask for another: holdfast resume deploys that"
            holds = (*holds, Hold("Pinned", text, final=True, chosen=True))
        paused = self.choices.paused - {WHOLE_APP}
        course = dataclasses.replace(aim.course, paused=paused) if paused else aim.course
        return dataclasses.replace(aim, course=course, holds=holds)

    def _aim_meanwhile(
        self, wanted: AppRevision, states: Mapping[str, ImageState], base: AppRevision | None, find: Find
    ) -> Aim:
        """While what is wanted may not be deployed a deploy under way goes on, and else what is in force stays so."""
        looking = not self.choices.pinned
        newer = self.revisions.find(self.current)
        if newer is not None:
            aim = self._aim_prepared(newer, newer.states(find, states), base, find)
            return dataclasses.replace(aim, preparing=looking)
        if base is None:
            return Aim(wanted.desired, states, preparing=True)
        return Aim(base.desired, base.states(find, states), Course(forward=frozenset()), preparing=looking)

    def _must_begin(self, wanted: AppRevision, base: AppRevision | None) -> bool:
        if base is not None and wanted.id in (base.id, self.quarantined) and self.deploy is None:
            return False
        return self.deploy is None or self.deploy.revision != wanted.id

    def _aim_prepared(
        self, wanted: AppRevision, states: Mapping[str, ImageState], base: AppRevision | None, find: Find
    ) -> Aim:
        if base is not None and base.id == wanted.id:
            return Aim(wanted.desired, states, Course(forward=frozenset()))
        if base is not None and self.deploy is None:
            failed = self.revisions.find(wanted.id) or wanted
            text = f"revision {_short(failed)} was taken back: {self.reason}\nrevision {_short(base)} is in force; "
            hold = Hold("RolledBack", f"{text}change the files, or holdfast retry", final=True, failing=True)
            return Aim(base.desired, base.states(find, states), Course(forward=frozenset()), holds=(hold,))
        return self._aim_deploying(wanted, states, base, find)

    def _compute_wanted(self, desired: DesiredApp, states: Mapping[str, ImageState]) -> AppRevision | None:
        """The revision that is wanted; worked out again only for what is new."""
        known = self._wanted
        if known is None or known[0] is not desired or known[1] is not states:
            self._wanted = known = (desired, states, compute_revision(desired, states))
        return known[2]

    def _aim_unprepared(
        self, desired: DesiredApp, states: Mapping[str, ImageState], base: AppRevision | None, find: Find, *, bare: bool
    ) -> Aim:
        """Until every image of what is wanted is local, what was in force stays so, and a deploy goes on waiting."""
        if base is None:
            return Aim(desired, states, preparing=bare)
        newer = self.revisions.find(self.deploy.revision) if self.deploy is not None else None
        if newer is None or self.deploy is None or self.deploy.stage is Stage.REVERTING:
            course = self._course(frozenset())
            images = base.states(find, states)
            return Aim(base.desired, images, course, preparing=True, older=newer.desired if newer else None)
        aim = self._aim_deploying(newer, newer.states(find, states), base, find)
        return dataclasses.replace(aim, preparing=True)

    def _aim_deploying(
        self, wanted: AppRevision, states: Mapping[str, ImageState], base: AppRevision | None, find: Find
    ) -> Aim:
        deploy = self.deploy
        assert deploy is not None
        if base is None:
            return Aim(wanted.desired, states)
        if deploy.stage is Stage.REVERTING:
            hold = Hold("RollingBack", f"back to revision {_short(base)}: {deploy.message}", failing=True)
            course = self._course(frozenset())
            return Aim(base.desired, base.states(find, states), course, older=wanted.desired, holds=(hold,))
        holds: tuple[Hold, ...] = ()
        if deploy.stage is Stage.PAUSED:
            text = f"the rollout of revision {_short(wanted)} is paused: {deploy.message}\nholdfast resume goes on"
            holds = (Hold("RolloutPaused", text, final=True, failing=True),)
        elif deploy.stage is Stage.BAKING:
            others = "waits for the others of its group" if self.baked else "watched before it is final"
            holds = (Hold("Baking", f"revision {_short(wanted)} is in place and {others}"),)
        course = self._course(frozenset(deploy.services))
        merged = self._merge(wanted, base)
        images = {**base.states(find, states), **states}
        return Aim(merged, images, course, older=base.desired, holds=holds)

    def _course(self, forward: frozenset[str]) -> Course:
        deploy = self.deploy
        if deploy is None:
            return Course(forward=forward)
        held = "the rollout is paused" if deploy.stage is Stage.PAUSED else ""
        reverting = deploy.stage is Stage.REVERTING
        return Course(True, reverting, held, deploy.began, forward)

    def _merge(self, wanted: AppRevision, base: AppRevision) -> DesiredApp:
        if self._merged is None or self._merged[:2] != (wanted.id, base.id):
            self._merged = (wanted.id, base.id, merge(wanted, base))
        return self._merged[2]

    @property
    def current(self) -> str:
        """The id of the revision that is being deployed; empty when none is."""
        return self.deploy.revision if self.deploy is not None else ""

    @property
    def engaged(self) -> list[AppRevision]:
        """The revisions that the host may run now: the one in force, and the one that is being deployed."""
        found = (self.revisions.find(identity) for identity in (self.base, self.current))
        return [revision for revision in found if revision is not None]

    # what becomes of it

    def advance(self, plan: Plan, aim: Aim, now: float, *, busy: bool) -> tuple[bool, float | None]:
        """Judge a deploy by the plan that was just made: whether its stage has changed, so that another plan is due,
        and when (epoch seconds) time alone would change it."""
        deploy = self.deploy
        if deploy is None or aim.desired is None or self.choices.stands_still:
            return False, None
        progress = plan.progress
        if not deploy.base:
            running = self.revisions.find(deploy.revision)
            if running is None or running.desired.content != aim.desired.content:
                return False, None
            settled = not plan.actions and not plan.holds and not busy
            progress = {name: Progress(settled) for name in aim.desired.app.services}
            if self.mates is not None and (faults := [hold.message for hold in plan.holds if hold.failing]):
                self.mates.fail(faults[0], now, deploy.began)
        services = aim.desired.app.services
        configs = {
            name: compute_update(services[name], reverting=False) for name in deploy.services if name in services
        }
        after, due = advance(deploy, progress, configs, now)
        waited, self.baked = self.baked, after.stage is Stage.COMMITTED
        if self.baked and self.mates is not None and not self.mates.commit(now, deploy.began):
            after, due = dataclasses.replace(after, stage=Stage.BAKING), now + GROUP_SECONDS
        if after == deploy:
            return self.baked is not waited, due
        self.deploy = after
        self._save()
        self._tell(deploy, after, now)
        return after.stage is not deploy.stage, due

    def restart_clock(self, now: float) -> None:
        """The clock was set: the time that a deploy is given, and that it is watched for, counts from now."""
        if self.deploy is not None:
            baking = now if self.deploy.baking_since else 0.0
            self.deploy = dataclasses.replace(self.deploy, began=now, baking_since=baking)
            self._save()

    def begin(self, wanted: AppRevision, now: float) -> None:
        """Begin to deploy a revision, in the place of one that is under way."""
        if self.deploy is not None and not self.deploy.base and self.deploy.stage is Stage.BAKING:
            self._turn(now, stage=Stage.COMMITTED)  # it serves, and there is nothing better to go back to
        base, self.baked = self.revisions.find(self.base), False
        self.quarantined = "" if self.quarantined == wanted.id else self.quarantined
        if self.deploy is not None:
            self.revisions.finish(self.deploy.revision, SUPERSEDED, now, "another revision came before it was in place")
        held = frozenset({wanted.id, self.base})
        numbered = self.revisions.add(wanted, now, held)
        services = find_changed(wanted, base) if base is not None else tuple(wanted.desired.app.services)
        self.deploy = Deploy(wanted.id, base.id if base is not None else "", services, now)
        self._save()
        names = ", ".join(touched(wanted, base)) or "no container"
        text = f"revision {_short(numbered)} is being deployed; it changes {names}"
        self._record("DeployStarted", text, numbered, services=list(services))

    def _settle(self, now: float) -> None:
        """What is wanted is what is in force: a deploy under way is not wanted any more."""
        if self.deploy is not None:
            self.revisions.finish(self.deploy.revision, SUPERSEDED, now, "what was in force is wanted again")
            self.deploy = None
            self._save()

    def _tell(self, before: Deploy, after: Deploy, now: float) -> None:
        revision = self.revisions.find(after.revision)
        name = _short(revision) if revision is not None else after.revision[7:19]
        if after.stage is before.stage:
            return
        match after.stage:
            case Stage.COMMITTED:
                self.base, self.deploy = after.revision, None
                self.revisions.finish(after.revision, GOOD, now)
                self._record("DeploySucceeded", f"revision {name} is in force", revision)
            case Stage.REVERTING:
                self._record("DeployFailed", f"revision {name} is taken back: {after.message}", revision)
                if self.mates is not None and not self.choices.pinned:
                    self.mates.fail(after.message, now)
            case Stage.PAUSED:
                text = f"the rollout of revision {name} is paused: {after.message}"
                self._record("DeployPaused", text, revision)
            case Stage.REVERTED:
                self.quarantined, self.reason, self.deploy = after.revision, after.message, None
                self._companion = after.reason == GROUP_FAILED
                self.revisions.finish(after.revision, ROLLED_BACK, now, after.message)
                base = self.revisions.find(after.base)
                where = f"revision {_short(base)} is in force again" if base is not None else "nothing is in force"
                self._record("DeployRolledBack", f"{where}; revision {name} failed: {after.message}", revision)
            case _:
                pass
        self._save()

    # what the others of its group do

    def would_begin(self, wanted: AppRevision) -> bool:
        """Whether a deploy begins when others of the group begin: also of what was taken back because of them."""
        again = self._companion and self.deploy is None and wanted.id == self.quarantined
        return again or (
            wanted.id not in (self.base, self.quarantined) and self._must_begin(wanted, self.revisions.find(self.base))
        )

    def commit(self, now: float) -> None:
        """The deploy under way is final, for all of the group have proved themselves."""
        self._turn(now, stage=Stage.COMMITTED)

    def take_back(self, message: str, now: float) -> None:
        """The deploy under way is taken back, for another one of the group has failed."""
        self._turn(now, stage=Stage.REVERTING, reason=GROUP_FAILED, message=message)

    def _turn(self, now: float, **fields: Any) -> None:
        before = self.deploy
        if before is not None:
            self.deploy = dataclasses.replace(before, **fields)
            self._save()
            self._tell(before, self.deploy, now)

    # what people say

    def choose(self, **choices: Any) -> None:
        """Note what people want from now on, as fields of ``Choices``."""
        self.choices = dataclasses.replace(self.choices, **choices)
        self._save()

    def retry(self) -> bool:
        """Let the revision that was taken back be tried again; False when there is none."""
        found = bool(self.quarantined)
        if found:
            self.quarantined = self.reason = ""
            self._save()
        return found

    def go_on(self, now: float) -> bool:
        """Go on with a rollout that failures have paused, as if it began now; False when none is."""
        if self.deploy is None or self.deploy.stage is not Stage.PAUSED:
            return False
        self.deploy = dataclasses.replace(self.deploy, stage=Stage.ROLLING, began=now, reason="", message="")
        self._save()
        return True

    def forget(self) -> None:
        """The app is gone, and its history with it."""
        self.choices = Choices()
        self.revisions.forget()
        self.deploy, self.base, self.quarantined, self.reason = None, "", "", ""
        self._journal.put(KIND, self._app, None)

    async def settle_on_disk(self) -> None:
        """Wait until what was decided is on disk: nothing is done because of it before. Raises HoldfastError."""
        if self.unsaved:
            await self._journal.flush()
            self.unsaved = False

    def _save(self) -> None:
        self.unsaved = True
        self._journal.put(
            KIND,
            self._app,
            {
                "deploy": encode_deploy(self.deploy),
                "base": self.base,
                "quarantined": self.quarantined,
                "reason": self.reason,
                "choices": encode_choices(self.choices),
                "companion": self._companion,
            },
        )

    def _record(self, reason: str, message: str, revision: AppRevision | None, **details: Any) -> None:
        if revision is not None:
            details |= {"revision": revision.id, "number": revision.number}
        self._teller.record("app", app=self._app, reason=reason, message=message, **details)
