"""What one app looks like on the host at one moment: plain values, made by the controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from types import MappingProxyType

from agent.plan.history import ContainerExit, SlotHistory
from agent.values import frozen

SlotKey = tuple[str, int]
NO_SLOTS: Mapping[SlotKey, SlotHistory] = MappingProxyType({})


class Phase(StrEnum):
    """Where a container is in its life; phases only grow. PENDING: asked for, not yet seen running;
    WEDGED: it lives on although killed, and nothing is to wait for it."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    WEDGED = "wedged"
    EXITED = "exited"
    LOST = "lost"


class Health(StrEnum):
    """What its healthcheck and its probes of liveness and startup say; NONE without any."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@frozen
class ObservedContainer:
    """One container and its owner's marks. ``app`` is empty when nobody owns it. Times are epoch seconds.

    ``healthy_at`` is when it was first healthy, 0 when never; ``digest`` the spec digest it was made from;
    ``accepting`` is false while its probes of readiness or startup have not passed; ``draining``: it is STOPPING,
    out of traffic, and was not asked to end yet.
    """

    id: str
    app: str
    service: str
    slot: int
    digest: str
    phase: Phase
    health: Health = Health.NONE
    image: str = ""
    created: float = 0.0
    started: float = 0.0
    healthy_at: float = 0.0
    accepting: bool = True
    draining: bool = False
    exit: ContainerExit | None = None
    networks: frozenset[str] = frozenset()
    trouble: str = ""

    @property
    def alive(self) -> bool:
        """Whether it has, or is about to have, processes that can be reckoned with."""
        return self.phase in (Phase.PENDING, Phase.RUNNING, Phase.STOPPING)

    @property
    def serving(self) -> bool:
        """Whether it fills its slot: alive and nobody asked it to stop."""
        return self.phase in (Phase.PENDING, Phase.RUNNING)

    @property
    def ready(self) -> bool:
        """Whether it runs and all that it is asked for says that it can serve."""
        return self.phase is Phase.RUNNING and self.accepting and self.health in (Health.NONE, Health.HEALTHY)

    @property
    def succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.phase is Phase.EXITED and self.exit is not None and self.exit.code == 0


@frozen
class ImageState:
    """What is known of an image that is wanted. ``id`` is None when it is not local.

    ``current`` is False when it has to be resolved (again) for this revision; at ``due`` (epoch seconds) its registry
    is to be asked again, while what is local stays good. After a failure ``retry_at`` says when to try again;
    ``stalled`` that trying again cannot help.
    """

    id: str | None = None
    current: bool = False
    retry_at: float = 0.0
    stalled: bool = False
    reason: str = ""
    message: str = ""
    due: float = float("inf")


@frozen
class ObservedApp:
    """Everything seen of one app. ``documents`` holds the specs that containers were made from, by digest, as
    JSON text; ``networks`` those that exist and belong to the app; ``volumes`` all that exist."""

    name: str
    containers: tuple[ObservedContainer, ...] = ()
    images: Mapping[str, ImageState] = field(default_factory=lambda: MappingProxyType({}))
    networks: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    slots: Mapping[SlotKey, SlotHistory] = field(default_factory=lambda: NO_SLOTS)
    documents: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
