"""Containers that do not die: they are reported, and nothing waits for them."""

from __future__ import annotations

from agent.plan.draft import Draft, ServiceView
from agent.plan.observed import Phase

WEDGED = "ContainerWedged"
_WAY_OUT = "it ends when the mount or device that it waits for answers, when it is thawed, or when the host boots"


def report_wedged(view: ServiceView, draft: Draft) -> None:
    """Say of every such container what keeps it."""
    for slot, containers in view.slots.items():
        for container in containers:
            if container.phase is Phase.WEDGED:
                name = f"{draft.name_of(view.name, slot)} ({container.id[:12]})"
                trouble = container.trouble or "does not end although killed"
                draft.hold(WEDGED, f"{name} {trouble}; {_WAY_OUT}", view, slot)
