"""Drift: what an app that was as desired needs done although nobody changed what is desired."""

from __future__ import annotations

from agent.controller.port import MetricsPort
from agent.controller.telling.telling import Teller
from agent.plan.actions import (
    Action,
    EnsureImage,
    EnsureNetwork,
    EnsureVolume,
    Plan,
    RemoveContainer,
    StopContainer,
)

OURS_KEPT = 512


class Drift:
    """One app's drift, counted once per action: when it is found, and when it is put right. Knows which containers
    the agent itself has asked to end, so that others' doing is told from its own."""

    def __init__(self, app: str, metrics: MetricsPort, teller: Teller) -> None:
        self._app = app
        self._metrics = metrics
        self._teller = teller
        self._found: set[str] = set()
        self._ours: dict[str, None] = {}
        self.settled = False

    def begin(self) -> None:
        """What is desired has changed: differences are work now, not drift."""
        self.settled = False
        self._found.clear()

    def settle(self) -> None:
        """Everything is as desired."""
        self.settled = True
        self._found.clear()

    def note(self, plan: Plan) -> None:
        """Count what a plan has to do that it had not before, and tell what of it is not told as a container's end."""
        if not self.settled:
            return
        drifted = [action for action in plan.ready_actions if not isinstance(action, EnsureImage)]
        fresh = [action for action in drifted if action.id not in self._found]
        if fresh:
            self._found |= {action.id for action in fresh}
            self._metrics.drift_found(self._app, len(fresh))
        for action in fresh:
            self._tell(action)

    def _tell(self, action: Action) -> None:
        if isinstance(action, EnsureNetwork | EnsureVolume):
            kind = "network" if isinstance(action, EnsureNetwork) else "volume"
            self._teller.record(kind, app=self._app, reason=f"Drift{action.cause.kind}", message=action.cause.message)
        elif (
            isinstance(action, StopContainer)
            and action.cause.kind == "StopBegun"
            and not self.is_ours(action.container)
        ):
            self._teller.record(
                "container",
                app=self._app,
                service=action.service,
                container=f"{self._app}-{action.service}-{action.slot}",
                reason="DriftStopped",
                message=action.cause.message,
                id=action.container,
            )

    def begin_action(self, action: Action) -> None:
        """The agent itself is about to do something."""
        if isinstance(action, StopContainer | RemoveContainer):
            self.claim(action.container)

    def claim(self, container_id: str) -> None:
        """The agent itself is about to end or remove a container."""
        self._ours[container_id] = None
        while len(self._ours) > OURS_KEPT:
            del self._ours[next(iter(self._ours))]

    def is_ours(self, container_id: str) -> bool:
        """Whether the agent has asked for a container's end or removal."""
        return container_id in self._ours

    def correct(self, action: str) -> None:
        """An action succeeded."""
        if action in self._found:
            self._metrics.drift_corrected(self._app)
