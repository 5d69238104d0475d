"""Containers that do not die: they are reported, and nothing waits for them."""

from __future__ import annotations

from agent.plan.draft import Draft, ServiceView
from agent.plan.observed import Phase

WEDGED = "ContainerWedged"


def report_wedged(view: ServiceView, draft: Draft) -> None:
    """Say of every such container what keeps it."""
    for slot, containers in view.slots.items():
        for container in containers:
            if container.phase is Phase.WEDGED:
                name = f"{draft.name_of(view.name, slot)} ({container.id[:12]})"
                draft.hold(WEDGED, f"{name} {container.trouble or 'does not end although killed'}", view, slot)
