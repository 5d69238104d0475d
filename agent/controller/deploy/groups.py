"""Apps that ``x-holdfast.group`` joins: what one of them does is brought to the others in the same breath, and so to
disk in the same transaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.controller.deploy.aims import Barrier
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.revisions import AppRevision, short_name
from agent.controller.images import AppImages
from agent.plan.actions import Hold
from agent.plan.group import GROUP_SECONDS, Member, find_companions, find_hindrance, find_partners, may_commit
from agent.plan.wants import DesiredApp

Judge = Callable[[str, AppRevision, AppRevision | None, float], Barrier | None]


class GroupApp(Protocol):
    """One app, as far as its group is concerned."""

    deploys: AppDeploys
    images: AppImages
    desired: DesiredApp | None
    invalid: str

    def poke(self) -> None:
        """Something has changed: reconcile soon."""


class Groups:
    """Lives on the loop. ``apps`` are all apps there are, by name, always as of now; ``judge`` says what keeps one from
    being deployed by itself."""

    def __init__(self, apps: Mapping[str, GroupApp], judge: Judge) -> None:
        self._apps = apps
        self._judge = judge
        self._seen: dict[str, tuple[object, ...]] = {}

    def mates_of(self, app: str) -> Mates:
        """What an app's deploys are given to speak to the others."""
        return Mates(self, app)

    def others(self, app: str) -> dict[str, GroupApp]:
        """The other apps of an app's group. Whoever is pinned acts alone."""
        group = self._group_of(self._apps[app])
        if not group:
            return {}
        return {name: other for name, other in self._apps.items() if name != app and self._group_of(other) == group}

    def companions(self, app: str) -> dict[str, AppRevision]:
        """The others of its group whose deploys begin with that of an app, and what they will be."""
        found = {name: (other, _wanted_of(other)) for name, other in self.others(app).items()}
        return {name: new for name, (other, new) in found.items() if new is not None and other.deploys.would_begin(new)}

    def note(self, app: str) -> None:
        """An app has been looked at: the others of its group, and of the one it was in, look again if that may change
        what they wait for."""
        state = _state_of(self._apps[app], self._group_of(self._apps[app]))
        before = self._seen.get(app, ("",))
        if state == before:
            return
        self._seen = {name: known for name, known in self._seen.items() if name in self._apps} | {app: state}
        for name, other in self._apps.items():
            if name != app and self._group_of(other) in {before[0], state[0]} - {""}:
                other.poke()

    @staticmethod
    def _group_of(app: GroupApp) -> str:
        if app.desired is None or app.deploys.choices.pinned:
            return ""
        return app.desired.app.deploys.group

    def judge(self, app: str, wanted: AppRevision, now: float) -> Barrier | None:
        """What keeps a revision waiting for others of its group."""
        others = self.others(app)
        why = find_hindrance(Member(name, self._hinder(name, other, now)) for name, other in others.items())
        if not why:
            return None
        text = f"revision {short_name(wanted)} waits for its group: {why}"
        return Barrier(Hold("GroupWaiting", text, chosen=True), now + GROUP_SECONDS)

    def _hinder(self, name: str, app: GroupApp, now: float) -> str:
        if app.invalid:
            return "its files cannot be used"
        wanted = _wanted_of(app)
        if wanted is None:
            return "its images are not all local"
        if not app.deploys.would_begin(wanted):
            return ""
        if app.deploys.choices.stands_still:
            return "it is paused"
        barrier = self._judge(name, wanted, app.deploys.in_force, now)
        return barrier.hold.message if barrier is not None else ""


class Mates:
    """The others of one app's group, for its deploys."""

    def __init__(self, groups: Groups, app: str) -> None:
        self._groups = groups
        self._app = app

    def begin(self, now: float) -> None:
        """The app's deploy has begun: theirs begin too."""
        others = self._groups.others(self._app)
        for name, wanted in self._groups.companions(self._app).items():
            others[name].deploys.begin(wanted, now)
            others[name].poke()

    def note(self) -> None:
        """The app has been looked at: who of them waits for it looks again, if there is reason to."""
        self._groups.note(self._app)

    def commit(self, now: float, began: float) -> bool:
        """The app's deploy, which began at ``began`` (epoch seconds), has proved itself: whether it is final now, and
        theirs with it.
        """
        others = self._groups.others(self._app)
        partners = find_partners(_describe(others), began)
        if not may_commit(partners):
            return False
        for member in partners:
            others[member.app].deploys.commit(now)
            others[member.app].poke()
        return True

    def fail(self, message: str, now: float, began: float = math.inf) -> None:
        """The app's deploy has failed: theirs are taken back, if they began by ``began`` (epoch seconds). The first one
        of an app stays and goes on failing, which is no reason to take back what others begin later."""
        others = {
            name: other
            for name, other in self._groups.others(self._app).items()
            if other.deploys.deploy is not None and other.deploys.deploy.began <= began
        }
        for name in find_companions(_describe(others)):
            others[name].deploys.take_back(f"app {self._app} of its group failed: {message}", now)
            others[name].poke()


def _describe(apps: Mapping[str, GroupApp]) -> list[Member]:
    return [Member(name, "", app.deploys.deploy, app.deploys.baked) for name, app in apps.items()]


def _state_of(app: GroupApp, group: str) -> tuple[object, ...]:
    """What of an app others of its group may wait for; its group comes first."""
    wanted, deploys = _wanted_of(app), app.deploys
    begins = wanted is not None and deploys.would_begin(wanted)
    stage = deploys.deploy.stage if deploys.deploy is not None else ""
    standing = (deploys.choices.stands_still, deploys.choices.approved, deploys.current, stage, deploys.baked)
    return (group, bool(app.invalid), wanted.id if wanted is not None else "", begins, *standing)


def _wanted_of(app: GroupApp) -> AppRevision | None:
    return app.deploys.find_wanted(app.desired, app.images.states) if app.desired is not None else None
