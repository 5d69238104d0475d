"""Apps that ``x-holdfast.group`` joins: what one of them does is brought to the others in the same breath, and so to
disk in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from agent.controller.aims import Barrier
from agent.controller.deploys import AppDeploys
from agent.controller.images import AppImages
from agent.controller.revisions import AppRevision, short_name
from agent.plan.actions import Hold
from agent.plan.group import GROUP_SECONDS, Member, find_companions, find_hindrance, may_commit
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

    def mates_of(self, app: str) -> Mates:
        """What an app's deploys are given to speak to the others."""
        return Mates(self, app)

    def others(self, app: str) -> dict[str, GroupApp]:
        """The other apps of an app's group. Whoever is pinned acts alone."""
        group = self._group_of(self._apps[app])
        if not group:
            return {}
        return {name: other for name, other in self._apps.items() if name != app and self._group_of(other) == group}

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
        barrier = self._judge(name, wanted, app.deploys.revisions.find(app.deploys.base), now)
        return barrier.hold.message if barrier is not None else ""


class Mates:
    """The others of one app's group, for its deploys."""

    def __init__(self, groups: Groups, app: str) -> None:
        self._groups = groups
        self._app = app

    def begin(self, now: float) -> None:
        """The app's deploy has begun: theirs begin too."""
        for other in self._groups.others(self._app).values():
            wanted = _wanted_of(other)
            if wanted is not None and other.deploys.would_begin(wanted):
                other.deploys.begin(wanted, now)
                other.poke()

    def commit(self, now: float) -> bool:
        """The app's deploy has proved itself: whether it is final now, and theirs with it."""
        others = self._groups.others(self._app)
        if not may_commit(_describe(others)):
            return False
        for other in others.values():
            if other.deploys.deploy is not None:
                other.deploys.commit(now)
                other.poke()
        return True

    def fail(self, message: str, now: float) -> None:
        """The app's deploy has failed: theirs are taken back."""
        others = self._groups.others(self._app)
        for name in find_companions(_describe(others)):
            others[name].deploys.take_back(f"app {self._app} of its group failed: {message}", now)
            others[name].poke()


def _describe(apps: Mapping[str, GroupApp]) -> list[Member]:
    return [Member(name, "", app.deploys.deploy, app.deploys.baked) for name, app in apps.items()]


def _wanted_of(app: GroupApp) -> AppRevision | None:
    return app.deploys.find_wanted(app.desired, app.images.states) if app.desired is not None else None
