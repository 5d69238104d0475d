"""Why something is as it is: what was recorded of a container, a service or an app, as a story in order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from agent.telemetry.events import Event
from agent.values import frozen

STEPS_KEPT = 60
_OF_DEPLOYS = "Deploy"
_KINDS = {
    "Started": "start",
    "Healthy": "health",
    "Unhealthy": "health",
    "Exited": "exit",
    "LastLines": "exit",
    "OutOfMemory": "exit",
    "Stopped": "stop",
    "ContainerWedged": "stop",
    "CrashLoop": "crash-loop",
    "DeployRolledBack": "rollback",
    "DeployFailed": "rollback",
}


@frozen
class Subject:
    """What is asked about: an app, one of its services, or (``name`` and ``id``) one container of that. ``origin``:
    what is known of the container's spec when nothing is recorded of its start; ``created`` when that was."""

    app: str
    service: str = ""
    name: str = ""
    id: str = ""
    cause: str = ""
    created: float = 0.0
    origin: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Step:
    """One thing that led to the next. ``at`` is epoch seconds; ``kind``: revision, deploy, plan, start, health, exit,
    stop, drift, replacement, rollback, crash-loop, condition, event, now."""

    at: float
    kind: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The step as a JSON object."""
        return {"at": self.at, "kind": self.kind, "text": self.text, "details": dict(self.details)}


def tell_container(subject: Subject, events: Sequence[Event]) -> list[Step]:
    """From the revision that asked for it to how it ended and what came after it."""
    started = _find(events, lambda event: event.reason == "Started" and event.details.get("id") == subject.id)
    details = {**subject.origin, **(started.details if started is not None else {})}
    begun = subject.created or (started.at if started is not None else 0.0)
    steps = [*_tell_origin(details, subject, events, begun)]
    before = _find(events, lambda event: _ended_before(event, subject, begun))
    if before is not None:
        steps.append(_step(before))
    cause = started.details.get("cause") if started is not None else None
    if cause:
        steps.append(Step(begun, "plan", f"{cause['kind']}: {cause['message']}", cause))
    elif subject.cause:
        steps.append(Step(begun, "plan", subject.cause))
    if started is not None:
        steps.append(_step(started))
    elif begun:
        steps.append(Step(begun, "start", f"{subject.name} started", {"id": subject.id}))
    own = [event for event in events if event.details.get("id") == subject.id and event is not started]
    steps += map(_step, own)
    after = _find_first(events, lambda event: _follows(event, subject, begun))
    if after is not None:
        text = f"{_short(after.details.get('id', ''))} took its place: {_cause_of(after)}"
        steps.append(Step(after.at, "replacement", text, after.details))
    return _ordered(steps)


def tell_group(subject: Subject, events: Sequence[Event]) -> list[Step]:
    """What was recorded of a service, or of a whole app, and of the deploys that were about it."""
    mine = [event for event in events if event.app == subject.app and _is_about(event, subject.service)]
    return [_step(event) for event in mine][-STEPS_KEPT:]


def _is_about(event: Event, service: str) -> bool:
    if not service:
        return True
    if event.reason.startswith(_OF_DEPLOYS):
        return service in event.details.get("services", (service,))
    return event.service == service


def _tell_origin(details: Mapping[str, Any], subject: Subject, events: Sequence[Event], begun: float) -> Iterator[Step]:
    revision = details.get("revision")
    if not revision:
        return
    line = f":{details['line']}" if details.get("line") else ""
    said = f"revision {details.get('number') or ''} ({_short(revision)})".replace("  ", " ")
    deploys = [e for e in events if e.app == subject.app and e.details.get("revision") == revision]
    deploys = [event for event in deploys if event.reason.startswith(_OF_DEPLOYS)]
    at = min([begun, *(event.at for event in deploys)])
    kept = {name: details[name] for name in ("revision", "number", "file", "line", "changes") if name in details}
    yield Step(at, "revision", f"{said} asks for {subject.service} in {details.get('file', '')}{line}", kept)
    yield from map(_step, deploys)


def _ended_before(event: Event, subject: Subject, begun: float) -> bool:
    """Whether an event tells how the container before this one in its slot ended."""
    mine = event.container == subject.name and event.app == subject.app and event.at <= begun
    return mine and event.reason == "Exited" and event.details.get("id") != subject.id


def _follows(event: Event, subject: Subject, begun: float) -> bool:
    mine = event.container == subject.name and event.app == subject.app and event.at > begun
    return mine and event.reason == "Started" and event.details.get("id") != subject.id


def _step(event: Event) -> Step:
    kind = _KINDS.get(event.reason)
    if kind == "health" and "condition" in event.details:
        kind = "condition"
    if kind is None and event.reason.startswith("Drift"):
        kind = "drift"
    if kind is None and event.reason.startswith(_OF_DEPLOYS):
        kind = "deploy"
    if kind is None and "condition" in event.details:
        kind = "condition"
    ended = event.details.get("exit")
    at = float(ended["at"]) if isinstance(ended, Mapping) and ended.get("at") else event.at
    about = {"service": event.service, "container": event.container} if event.service else {}
    return Step(at, kind or "event", event.message or event.reason, {"reason": event.reason, **about, **event.details})


def _cause_of(event: Event) -> str:
    cause = event.details.get("cause") or {}
    return str(cause.get("message") or event.message)


def _ordered(steps: Iterable[Step]) -> list[Step]:
    """By time; what came at the same moment stays as it was told, and nothing is told twice."""
    return sorted({(step.at, step.kind, step.text): step for step in steps}.values(), key=lambda step: step.at)


def _find(events: Sequence[Event], wanted: Callable[[Event], bool]) -> Event | None:
    """The newest event that is wanted."""
    return next(filter(wanted, reversed(events)), None)


def _find_first(events: Sequence[Event], wanted: Callable[[Event], bool]) -> Event | None:
    return next(filter(wanted, events), None)


def _short(identity: str) -> str:
    return str(identity).removeprefix("sha256:")[:12]
