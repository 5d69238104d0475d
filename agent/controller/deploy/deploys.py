"""The deploys of one app: which revision is in force, which one takes its place, and whether it may stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.controller.deploy.aims import Aim, Barrier, find_changed, is_look, touched
from agent.controller.deploy.choices import Choices, decode_choices, encode_choices
from agent.controller.deploy.deploydocument import decode_deploy, encode_deploy
from agent.controller.deploy.revisions import (
    GOOD,
    ROLLED_BACK,
    SUPERSEDED,
    AppRevision,
    Revisions,
    compute_revision,
    short_name,
)
from agent.controller.deploy.transaction import Admit, MatesPort
from agent.controller.journal import Journal
from agent.controller.telling.telling import Teller
from agent.plan.actions import Hold, Plan
from agent.plan.course import Progress
from agent.plan.deploy import Deploy, Stage, advance
from agent.plan.group import GROUP_FAILED, GROUP_SECONDS
from agent.plan.observed import ImageState
from agent.plan.pace import compute_update
from agent.plan.wants import DesiredApp
from agent.spec.model import UpdateConfig

KIND = "deploy"
WATCHED = "Baking"


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
        self._wanted: tuple[DesiredApp, Mapping[str, ImageState], AppRevision | None] | None = None

    @property
    def in_force(self) -> AppRevision | None:
        """The revision that proved itself last; None before one has."""
        return self.revisions.find(self.base)

    @property
    def pinned(self) -> AppRevision | None:
        """The revision that is to be in force whatever the files say."""
        return self.revisions.find(self.choices.pinned)

    def find_wanted(self, desired: DesiredApp, states: Mapping[str, ImageState]) -> AppRevision | None:
        """The revision that is wanted; None while one of its images has to be looked up."""
        return self.pinned or self._compute_wanted(desired, states)

    def _compute_wanted(self, desired: DesiredApp, states: Mapping[str, ImageState]) -> AppRevision | None:
        """The revision that the files ask for; worked out again only for what is new."""
        known = self._wanted
        if known is None or known[0] is not desired or known[1] is not states:
            self._wanted = known = (desired, states, compute_revision(desired, states))
        return known[2]

    @property
    def current(self) -> str:
        """The id of the revision that is being deployed; empty when none is."""
        return self.deploy.revision if self.deploy is not None else ""

    def describe(self) -> dict[str, Any] | None:
        """What is being deployed, as a JSON object; None when nothing is."""
        if self.deploy is None:
            return None
        revision = self.revisions.find(self.deploy.revision)
        return {
            "number": revision.number if revision is not None else 0,
            "revision": self.deploy.revision,
            "stage": self.deploy.stage.value,
            "services": list(self.deploy.services),
        }

    @property
    def engaged(self) -> list[AppRevision]:
        """The revisions that the host may run now: the one in force, and the one that is being deployed."""
        found = (self.revisions.find(identity) for identity in (self.base, self.current))
        return [revision for revision in found if revision is not None]

    # what becomes of it

    def turn_to(self, wanted: AppRevision, now: float) -> Barrier | None:
        """Begin to deploy what is wanted, or give up what is not any more; returns what forbids that at this moment."""
        if self.quarantined and self.quarantined != wanted.id and self.pinned is None:
            self.quarantined = self.reason = ""
            self._save()
        base = self.in_force
        if (base is not None and base.id == wanted.id) or wanted.id == self.quarantined:
            if not self.choices.stands_still:
                self._settle(now)
        elif self.must_begin(wanted, base):
            if self.choices.stands_still:
                return Barrier(
                    Hold("Paused", f"revision {short_name(wanted)} waits until the app is resumed", chosen=True)
                )
            barrier = self.admit(wanted, base, now)
            if barrier is not None:
                return barrier
            self.begin(wanted, now)
            if self.mates is not None and not self.choices.pinned:
                self.mates.begin(now)
        return None

    def must_begin(self, wanted: AppRevision, base: AppRevision | None) -> bool:
        """Whether a deploy of a revision is to begin, ``base`` being in force; not of one that is under way."""
        if base is not None and wanted.id in (base.id, self.quarantined) and self.deploy is None:
            return False
        return self.deploy is None or self.deploy.revision != wanted.id

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
            done = not busy and all(is_look(action, aim.images) for action in plan.actions)
            settled = done and all(hold.reason == WATCHED for hold in plan.holds)
            progress = {name: Progress(settled) for name in aim.desired.app.services}
            if self.mates is not None and (faults := [hold.message for hold in plan.holds if hold.failing]):
                self.mates.fail(faults[0], now, deploy.began)
        after, due = advance(deploy, progress, find_configs(deploy, aim.desired), now)
        waited, self.baked = self.baked, after.stage is Stage.COMMITTED
        if self.baked and self.mates is not None and not self.mates.commit(now, deploy.began):
            after, due = dataclasses.replace(after, stage=Stage.BAKING), now + GROUP_SECONDS
        if after == deploy:
            return self.baked is not waited, due
        self.deploy = after
        self._save()
        self._tell(deploy, after, now)
        return after.stage is not deploy.stage, due

    def lose_base(self, wanted: AppRevision, now: float) -> None:
        """What was in force is not here any more, neither containers nor images: a deploy of what is wanted, under way
        or yet to begin, is like the first one."""
        lost, self.base = self.in_force, ""
        if self.deploy is not None and self.deploy.revision == wanted.id:
            self.deploy = Deploy(wanted.id, "", tuple(wanted.desired.app.services), now)
        self._save()
        if lost is not None:
            text = f"revision {short_name(lost)} cannot be gone back to: its images are not on this host"
            self._record("DeployBaseLost", text, lost)

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
        base, self.baked = self.in_force, False
        self.quarantined = "" if self.quarantined == wanted.id else self.quarantined
        if self.deploy is not None:
            self.revisions.finish(self.deploy.revision, SUPERSEDED, now, "another revision came before it was in place")
        held = frozenset({wanted.id, self.base})
        numbered = self.revisions.add(wanted, now, held)
        services = find_changed(wanted, base) if base is not None else tuple(wanted.desired.app.services)
        self.deploy = Deploy(wanted.id, base.id if base is not None else "", services, now)
        self._save()
        names = ", ".join(touched(wanted, base)) or "no container"
        text = f"revision {short_name(numbered)} is being deployed; it changes {names}"
        self._record("DeployStarted", text, numbered, services=list(services))

    def _settle(self, now: float) -> None:
        """What is wanted is what is in force: a deploy under way is not wanted any more."""
        if self.deploy is not None:
            self.revisions.finish(self.deploy.revision, SUPERSEDED, now, "what was in force is wanted again")
            self.deploy = None
            self._save()

    def _tell(self, before: Deploy, after: Deploy, now: float) -> None:
        revision = self.revisions.find(after.revision)
        name = short_name(revision) if revision is not None else after.revision[7:19]
        if after.stage is before.stage:
            return
        match after.stage:
            case Stage.COMMITTED:
                self.base, self.deploy = after.revision, None
                self.revisions.finish(after.revision, GOOD, now, after.message)
                text = f"revision {name} is in force" + (f"; {after.message}" if after.message else "")
                self._record("DeploySucceeded", text, revision)
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
                where = f"revision {short_name(base)} is in force again" if base is not None else "nothing is in force"
                self._record("DeployRolledBack", f"{where}; revision {name} failed: {after.message}", revision)
            case _:
                pass
        self._save()

    # what the others of its group do

    def would_begin(self, wanted: AppRevision) -> bool:
        """Whether a deploy begins when others of the group begin: also of what was taken back because of them."""
        again = self._companion and self.deploy is None and wanted.id == self.quarantined
        return again or (wanted.id not in (self.base, self.quarantined) and self.must_begin(wanted, self.in_force))

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


def find_configs(deploy: Deploy, desired: DesiredApp) -> dict[str, UpdateConfig]:
    """How each service that a deploy changes, and that is still wanted, is to be updated."""
    services = desired.app.services
    return {name: compute_update(services[name], reverting=False) for name in deploy.services if name in services}
