"""May a revision be deployed now? What its app's file says of that, what people said, and what the host has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from agent.controller.deploy.aims import Barrier
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.groups import GroupApp, Groups
from agent.controller.deploy.memorycheck import Count, Neighbours
from agent.controller.deploy.preflight import Ports, Surroundings, check_host
from agent.controller.deploy.revisions import AppRevision, short_name
from agent.controller.port import CapacityPort
from agent.controller.traffic.endpoints import Claim
from agent.plan.actions import Hold
from agent.plan.windows import compute_opening, describe_moment
from agent.spec.model import Window
from agent.values import frozen

LONGEST_WAIT = 3600.0


class AdmittedApp(GroupApp, Protocol):
    """One app, as far as it takes something of the host."""

    removed: bool


@frozen
class Census:
    """What the apps have of the host: the ports of one, and the containers with processes of one's service."""

    claims_of: Callable[[str], Iterable[Claim]]
    count: Count


class Admission:
    """Lives on the loop. ``apps`` are all apps there are, by name, always as of now."""

    def __init__(self, apps: Mapping[str, AdmittedApp], capacity: CapacityPort, census: Census) -> None:
        self._apps = apps
        self._census = census
        self._capacity = capacity
        self._groups = Groups(apps, self.judge_alone)
        self._closed: dict[tuple[Window, ...], tuple[float, Barrier]] = {}

    def attach(self, app: str, deploys: AppDeploys) -> None:
        """Let an app's deploys ask here, and act with those of their group."""
        deploys.admit = partial(self.judge, app)
        deploys.mates = self._groups.mates_of(app)

    def judge(self, app: str, wanted: AppRevision, base: AppRevision | None, now: float) -> Barrier | None:
        """What keeps an app's revision from being deployed; None when nothing does."""
        return self.judge_alone(app, wanted, base, now) or self._groups.judge(app, wanted, now)

    def judge_alone(self, app: str, wanted: AppRevision, base: AppRevision | None, now: float) -> Barrier | None:
        """The same, whatever group it is in. Whoever rolls back is not asked to wait for an approval or a window."""
        choices = self._apps[app].deploys.choices
        policy = wanted.desired.app.deploys
        if not choices.pinned:
            if policy.apply == "manual" and choices.approved != wanted.id:
                return _ask_for_approval(wanted)
            closed = self._wait_for_window(policy.windows, wanted, now)
            if closed is not None:
                return closed
        companions = self._groups.companions(app)
        own = [claim for name in (app, *companions) for claim in self._census.claims_of(name)]
        others = {name: other.deploys.engaged for name, other in self._apps.items() if name != app}
        ports = Ports(own, {**others, **{name: [new] for name, new in companions.items()}})
        together = {name: (self._apps[name].deploys.in_force, new) for name, new in companions.items()}
        staying = {name: found for name, found in others.items() if name not in together}
        staying = {name: found for name, found in staying.items() if not self._apps[name].removed}
        around = Surroundings(ports, Neighbours(together, staying, self._census.count))
        return check_host(wanted, base, around, self._capacity, now)

    def _wait_for_window(self, windows: tuple[Window, ...], wanted: AppRevision, now: float) -> Barrier | None:
        """Worked out again only when a window opens, an hour has passed, or the clock was set."""
        if not windows:
            return None
        asked, known = self._closed.get(windows, (0.0, None))
        if known is None or not asked <= now < min(known.due or now, asked + LONGEST_WAIT):
            opening = compute_opening(windows, now)
            if opening.open:
                self._closed.pop(windows, None)
                return None
            known = _wait_until(opening.next, opening.zone, now)
            self._closed = {windows: (now, known)}
        hold = Hold(known.hold.reason, f"revision {short_name(wanted)} waits: {known.hold.message}", chosen=True)
        return Barrier(hold, known.due)


def _ask_for_approval(wanted: AppRevision) -> Barrier:
    text = (
        f"revision {short_name(wanted)} waits for an approval: "
        "holdfast plan shows what it does, holdfast plan --apply HASH approves that"
    )
    return Barrier(Hold("ApprovalNeeded", text, final=True, chosen=True))


def _wait_until(opening: float | None, zone: str, now: float) -> Barrier:
    if opening is None:
        text = "none of the deploy windows opens in sight: change x-holdfast.windows"
        return Barrier(Hold("OutsideWindow", text, chosen=True), now + LONGEST_WAIT)
    text = f"outside of the deploy windows; the next one opens at {describe_moment(opening, zone)}"
    return Barrier(Hold("OutsideWindow", text, chosen=True), opening)
