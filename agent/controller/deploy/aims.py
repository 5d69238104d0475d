"""What one pass of an app's worker plans for, and how two versions of an app live side by side meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from agent.controller.deploy.revisions import AppRevision
from agent.plan.actions import Action, EnsureImage, Hold
from agent.plan.course import STEADY, Course
from agent.plan.observed import ImageState
from agent.plan.wants import DesiredApp
from agent.values import frozen


@frozen
class Aim:
    """``desired`` is what the host is to become now, with ``images`` as they are; ``older`` what it comes from, whose
    containers may still serve. ``preparing``: the images of what is wanted next are still to be made local.
    ``holds`` say why the host is not (yet) as wanted; at ``due`` (epoch seconds) that may be another matter.
    """

    desired: DesiredApp | None
    images: Mapping[str, ImageState]
    course: Course = STEADY
    preparing: bool = False
    older: DesiredApp | None = None
    holds: tuple[Hold, ...] = field(default=())
    due: float | None = None


@frozen
class Barrier:
    """Why a revision is not deployed yet, and when (epoch seconds) to look again though nothing else has happened."""

    hold: Hold
    due: float | None = None


def is_look(action: Action, images: Mapping[str, ImageState]) -> bool:
    """Whether an action only asks whether there is a newer version of an image that is good as it is."""
    state = images.get(action.key) if isinstance(action, EnsureImage) else None
    return state is not None and bool(state.id) and state.current


def merge(newer: AppRevision, older: AppRevision | None) -> DesiredApp:
    """The newer app, with the services that only the older one has: those go when the newer one has proved itself."""
    if older is None:
        return newer.desired
    new, old = newer.desired.app, older.desired.app
    kept = {name: service for name, service in old.services.items() if name not in new.services}
    if not kept:
        return newer.desired
    app = new.model_copy(
        update={
            "services": {**new.services, **kept},
            "networks": {**old.networks, **new.networks},
            "volumes": {**old.volumes, **new.volumes},
        }
    )
    pinned = {name: older.digests[name] for name in kept if older.digests.get(name)}
    return DesiredApp(app, newer.desired.revision, pinned)


def find_changed(newer: AppRevision, older: AppRevision | None) -> tuple[str, ...]:
    """The services of a revision that the older one has not at all, or made in another way."""
    before = older.digests if older is not None else {}
    return tuple(name for name, digest in newer.digests.items() if before.get(name) != digest)


def touched(newer: AppRevision, older: AppRevision | None) -> tuple[str, ...]:
    """The services whose containers a deploy makes, changes or adds to."""
    changed = find_changed(newer, older)
    before = older.desired.app.services if older is not None else {}
    scaled = (
        name
        for name, service in newer.desired.app.services.items()
        if name in before and service.replicas > before[name].replicas
    )
    return tuple(dict.fromkeys((*changed, *scaled)))
