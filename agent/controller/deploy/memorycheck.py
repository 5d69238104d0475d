"""Whether the host has the memory that a revision asks for. Pure but for what the host says.

Limits are not added up: a host may promise more than it has, as long as not all take it at once. Reservations are kept,
so those of all containers together, and of those that live beside them while they are exchanged, have to fit into the
host's memory. What a deploy adds to them must be available when it begins too, for other programs take memory as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.controller.deploy.aims import find_changed
from agent.controller.deploy.revisions import AppRevision
from agent.controller.port import CapacityPort
from agent.plan.actions import Hold
from agent.plan.reservations import Reserved, compute_peak, compute_steady
from agent.values import frozen

REASON = "InsufficientMemory"
Count = Callable[[str, str], int]
"""How many containers of an app's service have processes now."""


@frozen
class Neighbours:
    """The other apps of this host: what becomes of those that are deployed ``together`` with one (from, to), and the
    ``others``, by name, with the revisions that are in force or on their way to be. ``count`` looks at what runs."""

    together: Mapping[str, tuple[AppRevision | None, AppRevision]]
    others: Mapping[str, Iterable[AppRevision]]
    count: Count


def check_memory(
    wanted: AppRevision, base: AppRevision | None, neighbours: Neighbours, capacity: CapacityPort
) -> Hold | None:
    """What of memory the host lacks for a revision that is to take the place of ``base``."""
    total = capacity.memory()
    if not total:
        return None
    return _check_limits(wanted, total) or _check_reservations(wanted, base, neighbours, capacity)


def _check_limits(wanted: AppRevision, total: int) -> Hold | None:
    for name, service in wanted.desired.app.services.items():
        if service.memory is not None and service.memory > total:
            text = (
                f"a container of {wanted.desired.name}/{name} may take {describe_size(service.memory)} of memory, "
                f"and this host has {describe_size(total)}: lower deploy.resources.limits.memory"
            )
            return Hold(REASON, text, name, final=True, failing=True)
    return None


def _check_reservations(
    wanted: AppRevision, base: AppRevision | None, neighbours: Neighbours, capacity: CapacityPort
) -> Hold | None:
    """Whoever asks for no more than is reserved for it already may always go on."""
    peak = _compute_peak(wanted, base, neighbours.count)
    pairs = neighbours.together.values()
    needed = _sum(peak) + sum(_sum(_compute_peak(new, old, neighbours.count)) for old, new in pairs)
    had = sum(_steady(old, neighbours.count) for old in (base, *(old for old, _ in pairs)) if old is not None)
    if not peak or needed <= had:
        return None
    taken = {app: _take(known, neighbours.count) for app, known in neighbours.others.items()}
    total, available = capacity.memory(), capacity.available_memory()
    what = _describe(wanted.desired.name, peak, needed - _sum(peak))
    lacking = max(needed + sum(taken.values()) - total, needed - had - available if available is not None else 0)
    hint = _advise(wanted.desired.name, peak[0], lacking)
    if needed + sum(taken.values()) > total:
        text = f"{what}{_describe_others(taken)}, and this host has {describe_size(total)}"
        return Hold(REASON, f"{text}: {hint}", peak[0].service, final=True, failing=True)
    if available is not None and needed - had > available:
        more = f", {describe_size(needed - had)} more than now" if had else ""
        text = f"{what}{more}, and {describe_size(available)} of this host's {describe_size(total)} are available now"
        return Hold(REASON, f"{text}: end what else takes memory, or {hint}", peak[0].service, failing=True)
    return None


def _compute_peak(new: AppRevision, old: AppRevision | None, count: Count) -> list[Reserved]:
    app = new.desired.name
    before = old.desired.app if old is not None else None
    return compute_peak(new.desired.app, before, find_changed(new, old), lambda service: count(app, service))


def _steady(revision: AppRevision, count: Count) -> int:
    return compute_steady(revision.desired.app, lambda service: count(revision.desired.name, service))


def _take(known: Iterable[AppRevision], count: Count) -> int:
    """What another app has reserved, whose revisions these are: in force, and being deployed."""
    revisions = list(known)
    if len(revisions) > 1:
        return _sum(_compute_peak(revisions[-1], revisions[0], count))
    return sum(_steady(revision, count) for revision in revisions)


def _sum(reserved: Iterable[Reserved]) -> int:
    return sum(one.total for one in reserved)


def _describe(app: str, peak: list[Reserved], together: int) -> str:
    top = peak[0]
    parts = [f"{top.replicas} x {describe_size(top.each)}"] if top.each else [f"{describe_size(top.total)} until then"]
    if top.each and top.beside:
        parts.append(f"{describe_size(top.beside)} while old and new run side by side")
    most = f"{app}/{top.service}: {' and '.join(parts)}"
    rest = "" if len(peak) == 1 else f", and {len(peak) - 1} more services"
    group = f", {describe_size(together)} of it with its group" if together else ""
    return f"it needs {describe_size(_sum(peak) + together)} of reserved memory ({most}{rest}{group})"


def _describe_others(taken: Mapping[str, int]) -> str:
    """What other apps have reserved, by name; empty when they have nothing."""
    found = sorted((app for app, count in taken.items() if count), key=lambda app: (-taken[app], app))
    if len(found) < 2:
        return "".join(f", app {app} has {describe_size(taken[app])}" for app in found)
    most = ", ".join(f"{app} {describe_size(taken[app])}" for app in found[:3])
    return f", other apps have {describe_size(sum(taken.values()))} ({most}{', ...' if len(found) > 3 else ''})"


def _advise(app: str, top: Reserved, lacking: int) -> str:
    """``top`` is the service that asks for most; ``lacking`` bytes are too many."""
    lower = f"lower deploy.resources.reservations.memory or the replicas of {app}/{top.service}"
    if not top.each:
        return f"take {top.service} out of {app} in a revision of its own first"
    return f"{lower}, or set its update_config.order to stop-first" if top.beside >= lacking else lower


def describe_size(count: int) -> str:
    """Bytes, as MiB."""
    return f"{count / (1 << 20):.0f} MiB"
