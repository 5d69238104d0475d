"""The rules for what an app's services share: images, networks, volumes."""

from __future__ import annotations

import math

from agent.plan.actions import (
    Cause,
    EnsureImage,
    EnsureNetwork,
    EnsureVolume,
    Hold,
    RemoveContainer,
    RemoveNetwork,
    StartContainer,
)
from agent.plan.draft import UNKNOWN_IMAGE, Draft
from agent.plan.history import CLOCK_SLACK, LONGEST_DELAY
from agent.plan.observed import ImageState, ObservedContainer
from agent.plan.wants import ImageWant


def ensure_images(draft: Draft) -> None:
    """Make every wanted image local and resolve it once for this revision, each on its own."""
    if draft.desired is None:
        return
    for key, want in draft.desired.images.items():
        state = draft.observed.images.get(key, UNKNOWN_IMAGE)
        if state.current and state.id and draft.now < state.due and not _is_out_of_reach(state.due, want, draft):
            if state.due < math.inf:
                draft.check_at(state.due)
            continue
        waits = state.retry_at > draft.now and not _is_out_of_reach(state.retry_at, want, draft)
        if state.stalled or waits:
            draft.check_at(0.0 if state.stalled else state.retry_at)
            draft.holds.append(_image_hold(want, state, draft))
            continue
        draft.pulls.add(key)
        due = f"@{state.due:.3f}" if state.current and state.id else ""  # each look-up is an action of its own
        draft.actions.append(EnsureImage(id=f"image/{key}{due}", cause=_image_cause(want, state), key=key))


def _is_out_of_reach(moment: float, want: ImageWant, draft: Draft) -> bool:
    """Whether a moment is later than any wait makes it: the clock was set back, and it is now."""
    return math.inf > moment > draft.now + max(want.interval, LONGEST_DELAY) + CLOCK_SLACK


def _image_cause(want: ImageWant, state: ImageState) -> Cause:
    if want.policy == "build" and not want.unless:
        return Cause("BuildNotChecked", f"what {want.reference} is built from has to be checked")
    if want.policy == "file":
        return Cause("FileNotChecked", f"whether {want.reference} has changed has to be checked")
    if state.current and state.id:
        return Cause("ImageDue", f"image {want.reference} is to be looked up every {want.interval:.0f} s")
    if state.id is None:
        return Cause("ImageMissing", f"image {want.reference} is not local")
    return Cause("ImageNotResolved", f"image {want.reference} has to be looked up in its registry")


def _image_hold(want: ImageWant, state: ImageState, draft: Draft) -> Hold:
    joint = "\n" if "\n" in state.message else "; "
    wait = "" if state.stalled else f"{joint}next attempt in {state.retry_at - draft.now:.1f} s"
    named = "" if want.reference in state.message else f"image {want.reference}: "
    message = f"{named}{state.message or 'is not available'}{wait}"
    return Hold(state.reason or "ImageNotAvailable", message, want.service, 0, state.stalled, failing=True)


def ensure_networks(draft: Draft) -> None:
    """Make the networks exist that services use."""
    for key, name in draft.desired.network_names.items() if draft.desired else ():
        if name not in draft.observed.networks:
            cause = Cause("NetworkMissing", f"network {name} does not exist")
            draft.actions.append(EnsureNetwork(id=f"network/{name}", cause=cause, name=name, key=key))


def ensure_volumes(draft: Draft) -> None:
    """Make the named volumes exist that services use. No rule ever removes one."""
    for key, name in draft.desired.volume_names.items() if draft.desired else ():
        if name not in draft.observed.volumes:
            cause = Cause("VolumeMissing", f"volume {name} does not exist")
            draft.actions.append(EnsureVolume(id=f"volume/{name}", cause=cause, name=name, key=key))


def unnetwork_id(name: str) -> str:
    """The id of the action that removes a network: one under way is as good as gone."""
    return f"unnetwork/{name}"


def remove_networks(draft: Draft) -> None:
    """Remove the app's networks that no service uses, after the last container has left them."""
    wanted = frozenset(draft.desired.network_names.values()) if draft.desired else frozenset()
    unused = draft.observed.networks - wanted
    if not unused:
        return
    removals = {action.container: action.id for action in draft.actions if isinstance(action, RemoveContainer)}
    starting = any(isinstance(action, StartContainer) and action.template for action in draft.actions)
    for name in sorted(unused):
        members = [container.id for container in _own_containers(draft) if name in container.networks]
        if starting or not all(member in removals for member in members):
            continue
        cause = Cause("NetworkUnused", f"no service of app {draft.observed.name} uses network {name} any more")
        after = tuple(removals[member] for member in members)
        draft.actions.append(RemoveNetwork(id=unnetwork_id(name), cause=cause, after=after, name=name))


def _own_containers(draft: Draft) -> list[ObservedContainer]:
    return [container for container in draft.observed.containers if container.app == draft.observed.name]
