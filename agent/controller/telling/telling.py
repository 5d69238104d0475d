"""What happened, told twice: as an event for those who ask, and as a line of the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agent.controller.outcome import Failure
from agent.controller.port import EventsPort
from agent.errors import Problem
from agent.telemetry.events import Event
from agent.telemetry.logging import get_logger


class Teller:
    """Records events and logs them. A failure that is a fault of Holdfast itself is logged with its traceback."""

    def __init__(self, events: EventsPort) -> None:
        self._events = events
        self._log = get_logger("controller")

    def record(
        self,
        kind: str,
        *,
        app: str = "",
        service: str = "",
        container: str = "",
        reason: str = "",
        message: str = "",
        **details: Any,
    ) -> None:
        """Something happened in the ordinary course of things. ``details``, for programs, are not logged."""
        self._events.record(
            kind, app=app, service=service, container=container, reason=reason, message=message, **details
        )
        self._log.info(message, **_named(app=app, service=service, container=container, reason=reason))

    def recent(self) -> Sequence[Event]:
        """All events that are kept, oldest first."""
        return self._events.recent()

    def fail(self, kind: str, failure: Failure, error: BaseException, *, app: str = "", what: str = "") -> None:
        """Something went wrong; ``what`` says what was being done."""
        message = f"{what}: {failure.message}" if what else failure.message
        self._events.record(kind, app=app, reason=failure.reason, message=message)
        fields = _named(app=app, reason=failure.reason)
        if failure.retry_after is not None:
            fields["retry_seconds"] = round(failure.retry_after, 1)
        fault = error if failure.reason == "InternalError" else None
        self._log.warning(message, exc_info=fault, **fields)

    def warn(self, warnings: Iterable[Problem], *, app: str) -> None:
        """What is hardly meant in an app's files; a matter of the log alone, for nothing has happened."""
        for warning in warnings:
            self._log.warning(str(warning), app=app)


def _named(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value}
