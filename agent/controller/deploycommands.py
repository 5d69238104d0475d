"""What people can ask of the deploys: history, differences, rollback, pause, resume, retry, approval."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent.controller.deploy.approvals import Approvals
from agent.controller.deploy.choices import WHOLE_APP
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.planhash import compute_plan_hash
from agent.controller.deploy.revisions import AppRevision, short_name
from agent.controller.deploy.revisionviews import (
    choose_app,
    compare_revisions,
    find_previous,
    find_revision,
    render_history,
    render_revision,
)
from agent.controller.deploy.shownplans import ShownPlans
from agent.controller.parts import Shared
from agent.controller.worker import AppWorker
from agent.errors import Conflict, NotFound
from agent.plan.deploy import Stage


class DeployCommands:
    """Lives on the loop. ``apps`` are the workers by name, always as of now. Every command that changes something
    returns when that is on disk, so that no crash takes it back."""

    def __init__(
        self,
        apps: Mapping[str, AppWorker],
        shared: Shared,
        approvals: Approvals,
        wait_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._apps = apps
        self._shared = shared
        self._approvals = approvals
        self._wait_change = wait_change
        self._shown = ShownPlans()

    # looking

    def history(self, app: str | None) -> list[dict[str, Any]]:
        """The revisions of one app, or of all, as ``render_history`` shows them. Raises NotFound."""
        names = [choose_app(self._apps, app)] if app else sorted(self._apps)
        return [row for name in names for row in render_history(name, self._apps[name].deploys)]

    def diff(self, one: str, other: str | None) -> dict[str, Any]:
        """From one revision to another of the same app, or from what is in force to ``one``: ``{app, old, new,
        changes}``. Raises NotFound, Conflict."""
        app, first = find_revision(self._deploys, one)
        deploys = self._apps[app].deploys
        if other is None:
            base = deploys.in_force
            if base is None:
                raise NotFound(f"no revision of {app} is in force yet", hint="name two revisions")
            old, new = base, first
        else:
            mine = {app: deploys}
            named, second = find_revision(mine if "/" not in other else self._deploys, other)
            if named != app:
                raise Conflict(f"{one} is a revision of {app}, and {other} is one of {named}", reason="DifferentApps")
            old, new = first, second
        changes = compare_revisions(old, new)
        return {"app": app, "old": render_revision(old), "new": render_revision(new), "changes": changes}

    @property
    def _deploys(self) -> dict[str, AppDeploys]:
        return {name: worker.deploys for name, worker in self._apps.items()}

    # changing

    async def rollback(self, app: str | None, name: str | None) -> dict[str, Any]:
        """Pin a revision, by default the good one before that in force. Raises NotFound, Conflict: nothing has changed
        then."""
        if app and name is None and app not in self._apps:
            app, name = None, app
        if name and not app:
            found, revision = self._find_anywhere(name)
        else:
            found = choose_app(self._apps, app)
            deploys = self._apps[found].deploys
            revision = find_revision({found: deploys}, name)[1] if name else find_previous(deploys)
        worker = self._apps[found]
        self._check_rollback(worker, revision)
        worker.deploys.choose(pinned=revision.id, number=revision.number)
        self._tell(worker, "Pinned", f"revision {short_name(revision)} is pinned by holdfast rollback")
        await self._shared.journal.flush()
        return {"app": found, "revision": render_revision(revision)}

    def _find_anywhere(self, name: str) -> tuple[str, AppRevision]:
        """What a name that is no app's means."""
        try:
            return find_revision(self._deploys, name)
        except NotFound as error:
            if "/" in name:
                raise
            apps = ", ".join(sorted(self._apps))
            hint = f"holdfast history lists the revisions; the apps are: {apps}"
            raise NotFound(f"there is no app and no revision {name}", hint=hint) from error

    def _check_rollback(self, worker: AppWorker, revision: AppRevision) -> None:
        name = f"{worker.name}/{revision.number}"
        if worker.desired is None:
            raise Conflict(f"app {worker.name} is not in the desired state", hint="put its file back first")
        if worker.deploys.choices.stands_still:
            raise Conflict(f"app {worker.name} is paused", reason="Paused", hint=f"holdfast resume {worker.name}")
        if revision.id == worker.deploys.quarantined:
            text = f"revision {name} was taken back: {worker.deploys.reason}"
            raise Conflict(text, reason="Quarantined", hint=f"holdfast retry {worker.name} tries it again")
        for key, image in revision.images.items():
            if self._shared.engine.images.find(image) is None:
                reference = revision.desired.images[key].reference
                raise Conflict(
                    f"image {image[7:19]} ({reference}) of revision {name} is not local any more",
                    reason="ImageLost",
                    hint="choose another revision, or change the files",
                )

    async def pause(self, target: str | None, *, everything: bool = False) -> dict[str, Any]:
        """Do nothing at all to an app, or to one service of it, until it is resumed. Raises NotFound, Conflict."""
        done = []
        for app, service in self._targets(target, everything):
            worker = self._apps[app]
            if service not in worker.deploys.choices.paused:
                worker.deploys.choose(paused=worker.deploys.choices.paused | {service})
                done.append(_name(app, service))
                self._tell(worker, "Paused", f"{_name(app, service)} is paused by holdfast pause")
        await self._shared.journal.flush()
        return {"paused": done}

    async def resume(self, target: str | None, *, everything: bool = False) -> dict[str, Any]:
        """End a pause; of a whole app also that of its services, a pin, and the pause of a rollout that failed. Raises
        NotFound, Conflict."""
        done = [_name(app, service) for app, service in self._targets(target, everything) if self._resume(app, service)]
        await self._shared.journal.flush()
        return {"resumed": done}

    def _resume(self, app: str, service: str) -> bool:
        worker, choices = self._apps[app], self._apps[app].deploys.choices
        if service:
            if service not in choices.paused:
                return False
            worker.deploys.choose(paused=choices.paused - {service})
        else:
            went_on = worker.deploys.go_on(self._shared.clock())
            if not (choices.paused or choices.pinned or went_on):
                return False
            worker.deploys.choose(paused=frozenset(), pinned="", number=0)
        self._tell(worker, "Resumed", f"{_name(app, service)} is resumed by holdfast resume")
        worker.forgive()
        return True

    def _targets(self, target: str | None, everything: bool) -> list[tuple[str, str]]:
        if everything:
            return [(name, WHOLE_APP) for name in sorted(self._apps)]
        app, slash, service = (target or "").partition("/")
        worker = self._apps[choose_app(self._apps, app)]
        services = {container.service for container in worker.observed} | worker.deploys.choices.paused
        services.update(worker.desired.app.services if worker.desired is not None else ())
        if slash and (not service or service not in services):
            raise NotFound(f"app {worker.name} has no service {service}", hint="holdfast status lists them")
        return [(worker.name, service)]

    async def retry(self, app: str | None) -> dict[str, Any]:
        """Try the revision that was taken back again: of an app and its group, or of every app that has one. Raises
        NotFound."""
        names = self._name_group(choose_app(self._apps, app)) if app else sorted(self._apps)
        done = []
        for name in names:
            worker = self._apps[name]
            if worker.deploys.retry():
                done.append(name)
                self._tell(worker, "RetryAsked", "the revision that was taken back is tried again: holdfast retry")
                worker.forgive()
        await self._shared.journal.flush()
        return {"retried": done}

    def _name_group(self, app: str) -> list[str]:
        groups = {name: found.desired.app.deploys.group for name, found in self._apps.items() if found.desired}
        mates = [name for name, group in groups.items() if group and group == groups.get(app)]
        return [app, *sorted(name for name in mates if name != app)]

    def _tell(self, worker: AppWorker, reason: str, message: str) -> None:
        self._shared.events.record("app", app=worker.name, reason=reason, message=message)
        worker.poke()

    async def wait_settled(self, app: str, seconds: float) -> dict[str, Any]:
        """Wait until no deploy of an app is under way and nothing is left to do; ``{settled, in_force}`` with the
        id of the revision in force."""
        worker = self._apps[app]
        passes, settled = worker.passes, False
        try:
            async with asyncio.timeout(seconds):
                while not (settled := worker.passes > passes and _is_settled(worker)):
                    await self._wait_change()
        except TimeoutError:
            pass
        return {"settled": settled, "in_force": worker.deploys.base}

    # approving

    def show_plans(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        """Rendered plans, each with its ``hash``, and with that of all; what they say is remembered for a while."""
        return self._shown.show({**plans, "apps": [{**plan, "hash": self._hash(plan)} for plan in plans["apps"]]})

    def _hash(self, plan: Mapping[str, Any]) -> str:
        worker = self._apps[plan["name"]]
        return compute_plan_hash(worker.name, self._wanted_id(worker), plan["actions"])

    @staticmethod
    def _wanted_id(worker: AppWorker) -> str:
        """The id of the revision that is wanted; empty while that is not known."""
        wanted = worker.deploys.find_wanted(worker.desired, worker.images.states) if worker.desired else None
        return wanted.id if wanted else ""

    def _is_in_hand(self, name: str) -> bool:
        """Whether the plan of a hash was approved, and what it leads to is still wanted, and is in force or on its way
        to be."""
        applied = self._approvals.find(name)
        if applied is None or not applied.keys() <= self._apps.keys():
            return False
        wanted = {app: self._wanted_id(self._apps[app]) for app in applied}
        deploys = {app: self._apps[app].deploys for app in applied}
        return wanted == applied and all(
            wanted[app] in (known.base, known.current) and not known.choices.stands_still
            for app, known in deploys.items()
        )

    async def approve(self, name: str, plans: Mapping[str, Any]) -> dict[str, Any]:
        """Approve the plan of a hash, which must be that of an app or of all in ``plans``, the ones as of now: apps
        that are paused are resumed, revisions that wait for an approval have it. One that was approved, and is carried
        out or under way, is not approved again. Raises Conflict when the plan is another one by now."""
        now = {plan["hash"]: [plan["name"]] for plan in plans["apps"]}
        now[plans["hash"]] = [plan["name"] for plan in plans["apps"]]
        if name not in now and self._is_in_hand(name):
            return {"approved": []}
        if name not in now:
            raise self._shown.explain_change(name, plans)
        done = [app for app in now[name] if self._approve(self._apps[app])]
        if done:
            wanted = {app: self._wanted_id(self._apps[app]) for app in now[name]}
            self._approvals.note(name, wanted, self._shared.clock())
        await self._shared.journal.flush()
        return {"approved": done}

    def _approve(self, worker: AppWorker) -> bool:
        deploys, desired = worker.deploys, worker.desired
        wanted = deploys.find_wanted(desired, worker.images.states) if desired is not None else None
        waits = wanted is not None and desired is not None and desired.app.deploys.apply == "manual"
        if waits and wanted is not None and wanted.id not in (deploys.base, deploys.current, deploys.choices.approved):
            deploys.choose(approved=wanted.id)
            self._tell(worker, "Approved", f"revision {short_name(wanted)} is approved by holdfast plan --apply")
        elif not deploys.choices.stands_still:
            return False
        if deploys.choices.stands_still:
            self._resume(worker.name, WHOLE_APP)
        return True


def _is_settled(worker: AppWorker) -> bool:
    deploy, moving = worker.deploys.deploy, worker.conditions.get("Reconciling")
    idle = moving is not None and moving.status == "False"
    return idle and (deploy is None or deploy.stage is Stage.PAUSED)


def _name(app: str, service: str) -> str:
    return f"{app}/{service}" if service else app
