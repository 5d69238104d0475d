"""Counting drift: what an app that was as desired needs done although nobody changed what is desired."""

from __future__ import annotations

from agent.controller.port import MetricsPort
from agent.plan.actions import EnsureImage, Plan


class Drift:
    """One app's drift, counted once per action: when it is found, and when it is put right."""

    def __init__(self, app: str, metrics: MetricsPort) -> None:
        self._app = app
        self._metrics = metrics
        self._found: set[str] = set()
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
        """Count what a plan has to do that it had not before."""
        if not self.settled:
            return
        fresh = {action.id for action in plan.ready_actions if not isinstance(action, EnsureImage)} - self._found
        if fresh:
            self._found |= fresh
            self._metrics.drift_found(self._app, len(fresh))

    def correct(self, action: str) -> None:
        """An action succeeded."""
        if action in self._found:
            self._metrics.drift_corrected(self._app)
