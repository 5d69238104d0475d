"""What a plan consists of. Every action has an id, its cause, and the ids of the actions it comes after.

An action whose ``after`` is not empty is a forecast: the loop carries out those with nothing before them, looks
again, and plans again. So an edge also stands for whatever else has to become true, such as readiness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.plan.course import Progress
from agent.plan.history import SlotHistory
from agent.plan.observed import SlotKey
from agent.values import frozen


@frozen
class FieldChange:
    """One changed field of a service: its dotted path and both values as JSON text, None where it is absent."""

    path: str
    old: str | None
    new: str | None


@frozen
class Cause:
    """Why: a PascalCase word for programs, a sentence for people, and what changed if it was the spec."""

    kind: str
    message: str
    changes: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """What every action has; ``after`` are the ids of the actions that it comes after."""

    id: str
    cause: Cause
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EnsureImage(_Planned):
    """Make the image of ``key`` (see ``wants``) local and resolve it for this revision."""

    key: str


@dataclass(frozen=True, kw_only=True)
class EnsureNetwork(_Planned):
    """Make a network exist. ``name`` is its real name, ``key`` the one it has in the app."""

    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class EnsureVolume(_Planned):
    """Make a named volume exist. ``name`` is its real name, ``key`` the one it has in the app."""

    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class StartContainer(_Planned):
    """Make and start a container for a slot. ``image`` and ``digest`` are empty while the image is not local.

    ``template`` is an ended container that is made again as it was, because its new spec cannot run yet.
    """

    service: str
    slot: int
    name: str
    image: str
    digest: str
    template: str = ""
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class StopContainer(_Planned):
    """Stop a container, with its own signal and grace."""

    container: str
    service: str
    slot: int


@dataclass(frozen=True, kw_only=True)
class RemoveContainer(_Planned):
    """Delete what is left of an ended container."""

    container: str
    service: str
    slot: int


@dataclass(frozen=True, kw_only=True)
class RemoveNetwork(_Planned):
    """Remove a network that no container of the app uses any more."""

    name: str


Action = EnsureImage | EnsureNetwork | EnsureVolume | StartContainer | StopContainer | RemoveContainer | RemoveNetwork


@frozen
class Hold:
    """Something that is not as desired and that no action can better now.

    ``final`` when only a change of the desired state, the image or the host can; otherwise time or an event will.
    ``failing`` when it is a fault and not merely the ordinary course of things; ``chosen`` when people want it so.
    """

    reason: str
    message: str
    service: str = ""
    slot: int = 0
    final: bool = False
    failing: bool = False
    chosen: bool = False


@frozen
class Plan:
    """The answer. ``next_check`` (epoch seconds) is when time alone would change it, None when never.

    ``slots`` are the slot histories as they are now known, to be kept for the next plan; ``progress``, while a deploy
    is under way, is that of every wanted service.
    """

    app: str
    actions: tuple[Action, ...] = ()
    holds: tuple[Hold, ...] = ()
    next_check: float | None = None
    slots: Mapping[SlotKey, SlotHistory] = field(default_factory=lambda: MappingProxyType({}))
    progress: Mapping[str, Progress] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def ready_actions(self) -> tuple[Action, ...]:
        """The actions that can be carried out now, all at the same time."""
        return tuple(action for action in self.actions if not action.after)
