"""What an action is about: for the loop, for events, for people. Pure."""

from __future__ import annotations

from agent.plan.actions import (
    Action,
    EnsureImage,
    EnsureNetwork,
    EnsureVolume,
    RemoveContainer,
    RemoveNetwork,
    StartContainer,
    StopContainer,
)


def kind_of(action: Action) -> str:
    """What an event about an action is about."""
    match action:
        case StartContainer() | StopContainer() | RemoveContainer():
            return "container"
        case EnsureImage():
            return "image"
        case EnsureNetwork() | RemoveNetwork():
            return "network"
        case EnsureVolume():
            return "volume"


def describe(action: Action) -> str:
    """What was being done, for people."""
    match action:
        case StartContainer():
            return f"start {action.name}"
        case StopContainer():
            return f"stop {action.service}-{action.slot} ({action.container[:12]})"
        case RemoveContainer():
            return f"remove {action.service}-{action.slot} ({action.container[:12]})"
        case EnsureImage():
            return f"image of {action.key.partition(':')[2]}"
        case EnsureNetwork():
            return f"make network {action.name}"
        case RemoveNetwork():
            return f"remove network {action.name}"
        case EnsureVolume():
            return f"make volume {action.name}"


def resource_of(action: Action) -> str:
    """What an action works on: two actions on the same thing are never under way together."""
    match action:
        case StopContainer() | RemoveContainer():
            return f"container/{action.container}"
        case EnsureNetwork() | RemoveNetwork():
            return f"network/{action.name}"
        case _:
            return action.id
